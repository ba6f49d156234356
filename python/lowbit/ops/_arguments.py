"""What the functional operators share: checks, defaults, and the choice of the backend."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from lowbit import backends
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import PRECISIONS

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BLOCK_INPUTS = 32
TILE_ROWS = 64


def check_input(x: Tensor, in_features: int) -> None:
    """Raise a typed error unless x is [..., in_features] of a floating dtype."""
    if x.dtype not in FLOAT_DTYPES:
        raise DtypeError(
            "wrong dtype of the input", found=x.dtype, allowed="float32, float16, bfloat16, float64"
        )
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ShapeError("wrong shape of the input", found=list(x.shape), allowed=f"[..., {in_features}]")


def check_width(width: int, in_features: int) -> None:
    """Raise ShapeError unless canonical rows of `width` bytes hold in_features bits."""
    if width != (in_features + 7) // 8:
        raise ShapeError(
            f"wrong shape of the packed weight for {in_features} inputs",
            found=f"{width} bytes a row",
            allowed=(in_features + 7) // 8,
        )


def precision_code(precision: str | None, x: Tensor) -> int:
    """Number of a precision; None is "fast" on the CPU and "high" elsewhere."""
    if precision is None:
        precision = "fast" if x.device.type == "cpu" else "high"
    if precision not in PRECISIONS:
        raise ValueRangeError("unknown precision", found=repr(precision), allowed=", ".join(PRECISIONS))
    return PRECISIONS.index(precision)


@torch.compiler.assume_constant_result
def choose(kind: str, device: str, dtype: torch.dtype, backend: str | None) -> str:
    """Name of the backend for such inputs: a constant to torch.compile, the installation decides."""
    return _choose(kind, device, dtype, backends.forced_name(backend))


@cache
def _choose(kind: str, device: str, dtype: torch.dtype, forced: str | None) -> str:
    return backends.select(kind, device=torch.device(device), dtype=dtype, backend=forced).backend.name
