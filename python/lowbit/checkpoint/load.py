"""`load_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.checkpoint.settings import (
    CONFIG,
    WEIGHTS,
    check_schemes,
    read_quantization,
    read_settings,
    saved_dtype,
)
from lowbit.checkpoint.skeleton import build_skeleton
from lowbit.checkpoint.tensors import TensorFile, count_nan
from lowbit.errors import CheckpointError, FormatError
from lowbit.formats import FORMATS, QuantizationConfig, packed_from_tensors
from lowbit.modules import (
    PackedEmbedding,
    PackedModule,
    QuantizedLinear,
    RowScale,
    TiedEmbedding,
    make_linear,
)
from lowbit.targets import Target, find_targets, row_scale, scheme_of, swap


def load_pretrained(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    model: nn.Module | None = None,
    precision: str | None = None,
    backend: str | None = None,
) -> Any:
    """Reads a checkpoint directory of `save_pretrained`.

    Packed layers are built from the packed tensors; their dense weights never exist. Everything is checked
    against the configuration before anything is used.

    Args:
        path: directory.
        device: where the model goes; default the CPU.
        dtype: that the model computes in; default the one it was saved with.
        model: for models that are not transformers' own: the model with its ordinary layers, which may be on
            the meta device. It is filled; when anything fails it is as it was.
        precision, backend: of the packed layers, as in `replace_linear`.

    Returns:
        The model; one of transformers in evaluation mode.

    Raises:
        CheckpointError: a missing, truncated or inconsistent file; it names file, tensor, what was found and
            what is allowed.
        BackendError: the forced backend cannot run a layer.
    """
    path = Path(path)
    settings = read_settings(path)
    config = read_quantization(path, settings)
    check_schemes(path, config)
    computed_in = dtype or saved_dtype(path, settings)
    target_device = torch.device("cpu" if device is None else device)
    built = build_skeleton(path, computed_in) if model is None else model
    with TensorFile(path / WEIGHTS, target_device) as file:
        loader = _Loader(file, built, config, computed_in, dtype is not None, precision, backend)
        loader.run()
    return built.to(target_device) if model is None or device is not None else built


@dataclass
class _Slot:
    """A parameter or buffer of the model and every place it has."""

    places: list[tuple[nn.Module, str]]
    names: list[str]
    tensor: Tensor


class _Loader:
    """Fills a model from a file: checks everything, reads everything, and only then changes the model."""

    def __init__(
        self,
        file: TensorFile,
        model: nn.Module,
        config: QuantizationConfig,
        dtype: torch.dtype,
        cast: bool,
        precision: str | None,
        backend: str | None,
    ) -> None:
        self.file = file
        self.model = model
        self.config = config
        self.dtype = dtype
        self.cast = cast
        self.precision = precision
        self.backend = backend
        self.targets: dict[str, Target] = {
            name: target for target in find_targets(model) for name in target.names
        }

    def run(self) -> None:
        packed = {*self.config.layers, *self.config.tied}
        for name in packed:
            self._check_target(name)
        slots = self._slots({self.targets[name].module for name in packed})
        expected = self._check_names(slots)
        unexpected = sorted(self.file.specs.keys() - expected)
        if unexpected:
            raise self.file.error(unexpected[0], "unexpected", f"{len(unexpected)} such tensors", "none")

        new: dict[nn.Module, nn.Module] = {}
        owners = {name: self._build(name) for name in self.config.layers}
        for name, owner in owners.items():
            new[self.targets[name].module] = owner
        for name, source in self.config.tied.items():
            module = self.targets[name].module
            if module not in new:
                new[module] = self._build_tied(name, owners[source])
        filled = [(slot, self._read_slot(slot)) for slot in slots]
        self._check_no_holes(slots, new)

        swap(self.model, new)
        for slot, tensor in filled:
            for module, key in slot.places:
                if key in module._parameters:
                    module._parameters[key] = tensor  # type: ignore[assignment]
                else:
                    module._buffers[key] = tensor

    def _check_target(self, name: str) -> None:
        if name not in self.targets:
            raise CheckpointError(
                f"'{self.file.file.with_name(CONFIG)}': no layer of the model has this name",
                layer=name,
                allowed="a linear layer or an embedding",
            )
        metadata = self.config.layers[self.config.tied.get(name, name)]
        shape = tuple(self.targets[name].module_shape())
        stored = (metadata["out_features"], metadata["in_features"])
        if shape != stored:
            raise CheckpointError(
                f"'{self.file.file.with_name(CONFIG)}': another size than the model's layer",
                layer=name,
                found=list(stored),
                allowed=list(shape),
            )

    def _slots(self, replaced: set[nn.Module]) -> list[_Slot]:
        """Everything of the model that a checkpoint holds besides the packed layers; tied tensors once."""
        slots: dict[int, _Slot] = {}
        for prefix, module in self.model.named_modules(remove_duplicate=False):
            if module in replaced:
                continue
            held = {**module._parameters, **module._buffers}
            for key, tensor in held.items():
                if tensor is None or key in module._non_persistent_buffers_set:
                    continue
                slot = slots.setdefault(id(tensor), _Slot([], [], tensor))
                slot.places.append((module, key))
                slot.names.append(f"{prefix}.{key}".removeprefix("."))
        return list(slots.values())

    def _check_names(self, slots: list[_Slot]) -> set[str]:
        """Checks that every tensor needed is in the file, and returns their names."""
        needed: set[str] = set()
        for name, metadata in self.config.layers.items():
            for tensor, spec in FORMATS[str(metadata["kind"])].expected(metadata).items():
                self.file.check(f"{name}.{tensor}", spec.shape, spec.dtype)
                needed.add(f"{name}.{tensor}")
            if self._has_bias(name):
                self.file.check(f"{name}.bias", (int(metadata["out_features"]),), None)
                needed.add(f"{name}.bias")
        for name, source in self.config.tied.items():
            bias = f"{name}.bias"
            if self._has_bias(name) and bias in self.file.specs:
                self.file.check(bias, (int(self.config.layers[source]["out_features"]),), None)
                needed.add(bias)
        for slot in slots:
            name = self._stored_name(slot)
            floating = slot.tensor.is_floating_point()
            self.file.check(name, tuple(slot.tensor.shape), None if floating else slot.tensor.dtype)
            needed.add(name)
        return needed

    def _has_bias(self, name: str) -> bool:
        return self.targets[name].module._parameters.get("bias") is not None

    def _stored_name(self, slot: _Slot) -> str:
        return next((name for name in slot.names if name in self.file.specs), slot.names[0])

    def _float(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if self.cast and tensor.is_floating_point() else tensor

    def _read_dense(self, name: str) -> Tensor:
        """A parameter that is not packed."""
        tensor = self.file.read(name)
        if nan := count_nan(tensor):
            raise self.file.error(name, "NaN", f"{nan} of them", "none")
        return tensor

    def _bias(self, name: str) -> nn.Parameter | None:
        if not self._has_bias(name):
            return None
        old = self.targets[name].module.get_parameter("bias")
        return nn.Parameter(self._float(self._read_dense(f"{name}.bias")), requires_grad=old.requires_grad)

    def _build(self, name: str) -> PackedModule:
        metadata = self.config.layers[name]
        tensors = {
            key: self.file.read(f"{name}.{key}") for key in FORMATS[str(metadata["kind"])].expected(metadata)
        }
        try:
            packed = packed_from_tensors(tensors, metadata, layer=name)
        except FormatError as error:
            raise CheckpointError(f"'{self.file.file}': {error}") from error
        common: dict[str, Any] = {
            "dtype": self.dtype,
            "scheme": scheme_of(self.config, name),
            "backend": self.backend,
            "name": name,
        }
        module = self.targets[name].module
        if isinstance(module, nn.Embedding):
            return PackedEmbedding(packed, row_scale=self._row_scale(name, module), **common)
        return make_linear(packed, self._bias(name), precision=self.precision, **common)

    def _build_tied(self, name: str, owner: PackedModule) -> nn.Module:
        module = self.targets[name].module
        if isinstance(module, nn.Embedding):
            return TiedEmbedding(owner, dtype=self.dtype, row_scale=self._row_scale(name, module))
        if not isinstance(owner, QuantizedLinear):
            raise CheckpointError("a linear layer cannot be tied to an embedding's weight", layer=name)
        if f"{name}.bias" in self.file.specs:
            return owner.sharing_weight(self._bias(name), name)
        if not self._has_bias(name) and owner.bias is not None:
            return owner.sharing_weight(None, name)
        return owner

    def _row_scale(self, name: str, module: nn.Embedding) -> RowScale:
        scale = row_scale(module)
        if isinstance(scale, str):
            raise CheckpointError(f"cannot read packed rows: {scale}", layer=name)
        return scale

    def _read_slot(self, slot: _Slot) -> Tensor:
        name = self._stored_name(slot)
        if isinstance(slot.tensor, nn.Parameter):
            tensor = self._float(self._read_dense(name))
            return nn.Parameter(tensor, requires_grad=slot.tensor.requires_grad)
        return self._float(self.file.read(name))

    def _check_no_holes(self, slots: list[_Slot], new: Mapping[nn.Module, nn.Module]) -> None:
        """Nothing may stay on the meta device: buffers that no checkpoint holds must have a value already."""
        filled = {id(slot.tensor) for slot in slots}
        for prefix, module in self.model.named_modules():
            for key, tensor in {**module._parameters, **module._buffers}.items():
                if module not in new and tensor is not None and id(tensor) not in filled and tensor.is_meta:
                    raise CheckpointError(
                        f"the model's buffer '{key}' has no value, and checkpoints do not hold it",
                        layer=prefix,
                        found="device meta",
                        allowed="a model whose non-persistent buffers are on a real device",
                    )
