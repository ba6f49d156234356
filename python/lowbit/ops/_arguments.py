"""What the functional operators share: checks, defaults, and the choice of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from lowbit import backends
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import PRECISIONS, SCALE_DTYPES
from lowbit.formats.base import check_group_size, group_count

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BLOCK_INPUTS = 32
SCALES = tuple(SCALE_DTYPES.values())


def check_input(x: Tensor, in_features: int) -> None:
    """Raise a typed error unless x is [..., in_features] of a floating dtype."""
    if x.dtype not in FLOAT_DTYPES:
        raise DtypeError(
            "wrong dtype of the input", found=x.dtype, allowed="float32, float16, bfloat16, float64"
        )
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ShapeError("wrong shape of the input", found=list(x.shape), allowed=f"[..., {in_features}]")


def check_tensor(
    name: str, tensor: Tensor | None, shape: Sequence[int], dtypes: Sequence[torch.dtype] = SCALES
) -> None:
    """Raise a typed error unless the tensor, if there is one, has this shape and one of these dtypes."""
    if tensor is None:
        return
    if list(tensor.shape) != list(shape):
        raise ShapeError(f"wrong shape of '{name}'", found=list(tensor.shape), allowed=list(shape))
    if tensor.dtype not in dtypes:
        raise DtypeError(f"wrong dtype of '{name}'", found=tensor.dtype, allowed=dtypes)


def check_groups(
    name: str,
    tensor: Tensor | None,
    rows: int,
    in_features: int,
    group_size: int,
    dtypes: Sequence[torch.dtype] = SCALES,
) -> None:
    """check_tensor for one value per row and group of inputs."""
    check_group_size(group_size)
    check_tensor(name, tensor, (rows, group_count(in_features, group_size)), dtypes)


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


def choose(kind: str, device: str, dtype: torch.dtype, backend: str | None) -> str:
    """Name of the backend for such inputs: a constant to torch.compile, the installation decides."""
    return _choose(kind, device, dtype, backends.forced_name(backend))


# What torch.compiler.assume_constant_result does, which would import the whole compiler for it.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _choose(kind: str, device: str, dtype: torch.dtype, forced: str | None) -> str:
    return backends.select(kind, device=torch.device(device), dtype=dtype, backend=forced).backend.name
