"""Checks and helpers shared by the quantisers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats.activations import FLOAT_DTYPES
from lowbit.formats.base import SCALE_DTYPES

# Rows are worked on in pieces of about this many weights: temporaries stay in the cache and in memory that
# the allocator keeps at hand.
_CHUNK_WEIGHTS = 1 << 17


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations within stay on the calling thread; also a decorator.

    Work on pieces that fit a core's cache is thousands of short operations. More threads gain little there,
    and on a busy machine their barriers cost a factor of ten and more: every operation waits for the slowest
    thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def row_chunks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of whole rows: (row numbers, float32 copy of these rows)."""
    step = max(1, _CHUNK_WEIGHTS // weight.shape[1])
    for begin in range(0, weight.shape[0], step):
        rows = slice(begin, min(begin + step, weight.shape[0]))
        yield rows, weight[rows].to(torch.float32, copy=True)


def check_weight(weight: Tensor, layer: str | None) -> Tensor:
    """The weight, detached, if it is a finite, non-empty float matrix.

    Raises:
        ShapeError, DtypeError, ValueRangeError: otherwise, naming the layer.
    """
    if weight.dim() != 2 or 0 in weight.shape:
        raise ShapeError(
            "wrong shape of the weight", layer=layer, found=list(weight.shape), allowed="[N, K], N and K >= 1"
        )
    if weight.dtype not in FLOAT_DTYPES:
        raise DtypeError(
            "wrong dtype of the weight",
            layer=layer,
            found=weight.dtype,
            allowed="float16, bfloat16, float32, float64",
        )
    weight = weight.detach()
    bad = sum(int((~rows.isfinite()).sum()) for _, rows in row_chunks(weight))
    if bad:
        raise ValueRangeError(
            "non-finite weights", layer=layer, found=f"{bad} NaN or infinite values", allowed="finite"
        )
    return weight


def to_stored(values: Tensor, scale_dtype: str, layer: str | None) -> Tensor:
    """A contiguous copy of scales or table entries in the dtype they are stored in.

    Raises:
        ValueRangeError: a value overflows that dtype.
    """
    stored = values.to(SCALE_DTYPES[scale_dtype], copy=True, memory_format=torch.contiguous_format)
    if not bool(stored.isfinite().all()):
        raise ValueRangeError(
            f"values too large for scale_dtype {scale_dtype}",
            layer=layer,
            found=f"{float(values.abs().max()):g}",
            allowed=f"up to {torch.finfo(stored.dtype).max:g}; bfloat16 and float32 reach further",
        )
    return stored


def split_groups(rows: Tensor, group_size: int) -> list[Tensor]:
    """[n, K] -> the full groups [n, G, g], then, if K is no multiple of g, the short one [n, 1, K mod g].

    A group size of -1 is the whole row. Views, not copies.
    """
    in_features = rows.shape[1]
    width = in_features if group_size == -1 else group_size
    full = in_features // width * width
    parts = [rows[:, :full].unflatten(1, (-1, width))] if full else []
    return parts if full == in_features else [*parts, rows[:, full:].unsqueeze(1)]
