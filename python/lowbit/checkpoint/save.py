"""`save_pretrained`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from lowbit.checkpoint.atomic import write_directory
from lowbit.checkpoint.schemes import check_scheme, implied_scheme
from lowbit.checkpoint.settings import CONFIG, WEIGHTS, read_quantization, read_settings
from lowbit.checkpoint.tensors import count_nan
from lowbit.errors import CheckpointError
from lowbit.formats import QuantizationConfig
from lowbit.modules import PackedModule, TiedEmbedding
from lowbit.targets import find_targets, scheme_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
)


def save_pretrained(model: nn.Module, path: str | Path, *, tokenizer: Any = None) -> None:
    """Writes a model with packed layers as a checkpoint directory.

    The directory is written aside and renamed when complete. One that is there already is replaced if it
    holds a lowbit checkpoint, and is untouched when anything fails; its files that are no weights stay.

    Args:
        model: at least one layer packed.
        path: directory.
        tokenizer: saved too; without it the tokenizer files of the directory the model came from are copied.

    Raises:
        CheckpointError: nothing is packed, or the directory cannot be written or replaced.
    """
    path = Path(path)
    config, tensors = _describe(model)
    _check_replaceable(path)

    def fill(directory: Path) -> None:
        _save_config(model, directory, config)
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read; who may read the one may read the other.
        (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        else:
            _copy_tokenizer(model, directory)

    try:
        write_directory(path, fill, keep=lambda name: ".safetensors" not in name)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot write '{path}': {error}") from error


def _describe(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """quantization_config and tensors of a model."""
    owners: dict[int, str] = {}  # address of the packed bytes -> name of the first module that has them
    modules: dict[str, PackedModule] = {}
    tied: dict[str, str] = {}
    dropped: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PackedModule):
            _check_has_data(module.get_buffer("weight"), name)
            owner = owners.setdefault(module.get_buffer("weight").data_ptr(), name)
            if owner == name:
                modules[name] = module
            else:
                tied[name] = owner
                same = module is model.get_submodule(owner)
                names = module.state_dict() if same else module.runtime_tensors()
                dropped |= {f"{name}.{tensor}" for tensor in names}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TiedEmbedding):
            address = module.weight.data_ptr()
            if address not in owners:
                raise CheckpointError(
                    "the layer this embedding is tied to is not part of the model", layer=name
                )
            tied[name] = owners[address]
    if not modules:
        raise CheckpointError(
            "the model has no packed layers to save", allowed="a model after replace_linear"
        )

    schemes = {name: module.scheme or implied_scheme(module.metadata) for name, module in modules.items()}
    for name, module in modules.items():
        check_scheme(schemes[name], module.metadata, name)
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and (nan := count_nan(parameter)):
            raise CheckpointError(f"NaN in '{name}'", found=f"{nan} of them", allowed="none")
    common = Counter(schemes.values()).most_common(1)[0][0]
    overrides = {name: scheme for name, scheme in schemes.items() if scheme != common}
    read = QuantizationConfig(common, overrides=overrides)
    # An override also reaches layers whose last component has its name.
    overrides |= {name: scheme for name, scheme in schemes.items() if scheme_of(read, name) != scheme}
    config = QuantizationConfig(
        scheme=common,
        modules_to_not_convert=tuple(
            target.name for target in find_targets(model) if not target.is_embedding
        ),
        overrides=overrides,
        layers={name: module.metadata for name, module in modules.items()},
        tied=tied,
    )
    settings: dict[str, Any] = {
        "dtype": str(next(iter(modules.values())).dtype).removeprefix("torch."),
        "quantization_config": config.to_dict(),
    }
    return settings, _unique_tensors(model, dropped)


def _unique_tensors(model: nn.Module, dropped: set[str]) -> dict[str, Tensor]:
    """The state dict with tensors that share memory once, under their first name."""
    tensors: dict[str, Tensor] = {}
    seen = set()
    memory = set()
    for name, tensor in model.state_dict().items():
        _check_has_data(tensor, name)
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if name in dropped or (tensor.numel() and place in seen):
            continue
        seen.add(place)
        stored = tensor.detach().cpu().contiguous()
        if stored.untyped_storage().data_ptr() in memory:  # another view of it, which safetensors refuses
            stored = stored.clone()
        memory.add(stored.untyped_storage().data_ptr())
        tensors[name] = stored
    return tensors


def _check_has_data(tensor: object, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            "state that is no tensor cannot be saved",
            layer=name,
            found=type(tensor).__name__,
            allowed="tensors",
        )
    if tensor.is_meta:
        raise CheckpointError(
            "nothing to save", layer=name, found="a tensor on the meta device", allowed="a tensor with data"
        )


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(
            f"'{path}' is not a directory", found="a file", allowed="a directory or nothing"
        )
    if any(path.iterdir()):
        try:
            read_quantization(path, read_settings(path))
        except CheckpointError as error:
            raise CheckpointError(
                f"'{path}' holds something else than a lowbit checkpoint and is not replaced",
                found=", ".join(sorted(entry.name for entry in path.iterdir())[:5]),
                allowed="an empty directory, or a checkpoint of save_pretrained",
            ) from error


def _save_config(model: nn.Module, directory: Path, settings: Mapping[str, Any]) -> None:
    config = getattr(model, "config", None)
    merged: dict[str, Any] = {}
    if config is not None and hasattr(config, "to_json_string"):
        merged = json.loads(config.to_json_string(use_diff=True))
        merged["architectures"] = [type(model).__name__]
        generation = getattr(model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(directory)
    text = json.dumps(merged | dict(settings), indent=2, sort_keys=True)
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")


def _copy_tokenizer(model: nn.Module, directory: Path) -> None:
    origin = getattr(getattr(model, "config", None), "_name_or_path", "")
    for name in TOKENIZER_FILES if origin else ():
        if (Path(origin) / name).is_file():
            shutil.copy2(Path(origin) / name, directory / name)
