"""``lowbit inspect``: what a checkpoint holds, read from its configuration and its files' headers alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit.cli.output import JsonOption, print_json, print_line, print_table
from lowbit.cli.schemes import scheme_label
from lowbit.errors import CheckpointError
from lowbit.models import read_config
from lowbit.report import size

_MAX_HEADER = 100 * 1024**2  # of a safetensors file, by its own specification


@dataclass(frozen=True)
class Layer:
    """One module of a checkpoint with all its tensors."""

    name: str
    shape: str
    scheme: str
    weights: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model directory or a .safetensors file.")],
    json_output: JsonOption = False,
) -> None:
    """List the layers of a checkpoint: shape, scheme, bits per weight, bytes."""
    layers = inspect_checkpoint(path)
    if not layers:
        raise CheckpointError(f"'{path}' has no tensors")
    weights, stored = sum(layer.weights for layer in layers), sum(layer.bytes for layer in layers)
    total = {
        "layers": len(layers),
        "weights": weights,
        "bytes": stored,
        "bits_per_weight": 8 * stored / weights,
    }
    if json_output:
        rows = [{**vars(layer), "bits_per_weight": layer.bits_per_weight} for layer in layers]
        print_json({"path": str(path), "layers": rows, "total": total})
        return
    print_table(
        str(path),
        ("layer", "shape", "scheme", "bits/weight", "bytes"),
        [
            (layer.name, layer.shape, layer.scheme, f"{layer.bits_per_weight:.3f}", f"{layer.bytes:,}")
            for layer in layers
        ],
    )
    print_line(
        f"{len(layers)} layers, {weights:,} weights, {size(stored)}, "
        f"{total['bits_per_weight']:.3f} bits/weight"
    )


def inspect_checkpoint(path: Path) -> list[Layer]:
    """The modules of a checkpoint in the order of their names.

    Raises:
        CheckpointError: no safetensors files, a damaged header, or a configuration that cannot be read or
            that lowbit does not know.
    """
    directory, files = (path.parent, [path]) if path.is_file() else (path, sorted(path.glob("*.safetensors")))
    if not files or any(file.suffix != ".safetensors" for file in files):
        raise CheckpointError(
            "nothing to inspect",
            found=f"'{path}'",
            allowed="a directory with .safetensors files, or such a file",
        )
    modules: dict[str, dict[str, Mapping[str, Any]]] = {}
    for file in files:
        for name, tensor in _header(file).items():
            module, _, leaf = name.rpartition(".")
            modules.setdefault(module, {})[leaf] = tensor
    packed = _packed_layers(directory)
    return [_layer(name, modules[name], packed.get(name)) for name in sorted(modules, key=_natural_order)]


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _packed_layers(directory: Path) -> dict[str, tuple[Mapping[str, int | str], str]]:
    """Metadata and scheme of every packed layer config.json lists; empty without a lowbit configuration."""
    from lowbit.checkpoint.settings import read_quantization
    from lowbit.targets import scheme_of

    if not (directory / "config.json").is_file():
        return {}
    settings = read_config(directory)
    section = settings.get("quantization_config")
    if not isinstance(section, dict) or section.get("quant_method") != "lowbit":
        return {}
    config = read_quantization(directory, settings)
    return {
        name: (metadata, scheme_label(scheme_of(config, name))) for name, metadata in config.layers.items()
    }


def _layer(
    name: str, tensors: Mapping[str, Mapping[str, Any]], packed: tuple[Mapping[str, int | str], str] | None
) -> Layer:
    size = sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors.values())
    if packed is not None:
        metadata, scheme = packed
        rows, columns = int(metadata["out_features"]), int(metadata["in_features"])
        return Layer(name, f"{rows} x {columns}", scheme, rows * columns, size)
    main = tensors.get("weight") or max(tensors.values(), key=lambda tensor: _count(tensor["shape"]))
    shape = " x ".join(str(extent) for extent in main["shape"]) or "scalar"
    return Layer(name, shape, str(main["dtype"]).lower(), _count(main["shape"]), size)


def _count(shape: list[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return max(count, 1)


def _header(path: Path) -> dict[str, Mapping[str, Any]]:
    """Tensor name -> dtype, shape and offsets: the JSON at the start of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        size = path.stat().st_size - 8 - length
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        needed = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{path}' is truncated or corrupt: {error}") from error
    if size != needed:
        raise CheckpointError(
            f"'{path}' is truncated or corrupt", found=f"{size} bytes", allowed=f"{needed} bytes"
        )
    return tensors
