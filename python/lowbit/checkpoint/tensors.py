"""The tensors of a safetensors file, checked before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lowbit.errors import CheckpointError
from lowbit.formats import TensorSpec


def count_nan(tensor: Tensor) -> int:
    """0 for integers, which have none."""
    return int(tensor.isnan().sum()) if tensor.is_floating_point() else 0


class TensorFile:
    """The tensors of a safetensors file: names and shapes first, data when asked for."""

    _DTYPES: Mapping[str, torch.dtype] = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "U16": torch.uint16,
        "BOOL": torch.bool,
    }

    def __init__(self, file: Path, device: torch.device) -> None:
        self.file = file
        self.device = device

    def __enter__(self) -> TensorFile:
        if not self.file.is_file():
            raise CheckpointError(f"'{self.file}' is missing")
        try:
            self._open = safe_open(str(self.file), framework="pt", device=str(self.device))
            self._handle = self._open.__enter__()
            self.specs = {name: self._spec(name) for name in self._handle.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{self.file}' is truncated or corrupt: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)

    def _spec(self, name: str) -> TensorSpec:
        part = self._handle.get_slice(name)
        dtype = self._DTYPES.get(part.get_dtype())
        if dtype is None:
            raise self.error(name, "unsupported dtype", part.get_dtype(), ", ".join(self._DTYPES))
        return TensorSpec(tuple(part.get_shape()), dtype)

    def read(self, name: str) -> Tensor:
        """A copy: one view of the mapped file would keep all of the file's pages resident with it."""
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor.clone()

    def error(self, tensor: str, message: str, found: object, allowed: object) -> CheckpointError:
        return CheckpointError(f"'{self.file}', tensor '{tensor}': {message}", found=found, allowed=allowed)

    def check(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
        """Present, of that shape and dtype (None: any floating dtype)."""
        if name not in self.specs:
            raise self.error(name, "missing", f"{len(self.specs)} other tensors", list(shape))
        spec = self.specs[name]
        if spec.shape != shape:
            raise self.error(name, "wrong shape", list(spec.shape), list(shape))
        if dtype is None and not spec.dtype.is_floating_point:
            raise self.error(name, "wrong dtype", spec.dtype, "a floating dtype")
        if dtype is not None and spec.dtype != dtype:
            raise self.error(name, "wrong dtype", spec.dtype, dtype)
