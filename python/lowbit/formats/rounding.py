"""Which code a weight becomes, given its scales or table: one rule for training and for packing."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.formats.bits import MAX_BITS


def wide(values: Tensor) -> Tensor:
    """float64 as it is, anything else in float32: what codes are computed in."""
    return values if values.dtype == torch.float64 else values.float()


def is_plus(weight: Tensor) -> Tensor:
    """bool: whether the sign is +1. A weight of exactly 0 counts as +1."""
    return weight >= 0


def bipolar_values(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The odd value v nearest to weight / scales among -(2^bits - 1) .. 2^bits - 1, in weight's dtype.

    Half way between two it is the upper one. `scales` broadcasts against `weight`; where it is 0, v is +1,
    and the product with it 0.
    """
    largest = 2**bits - 1
    halves = (in_scales_of(weight, scales) * 0.5).floor()
    return (2 * halves + 1).clamp(-largest, largest)


def in_scales_of(weight: Tensor, scales: Tensor) -> Tensor:
    """weight / scales, and 0 where the scale is 0."""
    return torch.where(scales == 0, 0.0, weight / scales)


def bits_of_tables(tables: Tensor, out_features: int, layer: str | None = None) -> int:
    """Bits of a code into tables [out_features, 2^bits].

    Raises:
        ShapeError: they are no such tables.
    """
    for bits in range(1, MAX_BITS + 1):
        if tuple(tables.shape) == (out_features, 2**bits):
            return bits
    raise ShapeError(
        "wrong shape of 'tables'",
        layer=layer,
        found=list(tables.shape),
        allowed=f"[{out_features}, 2^bits] with bits 1..{MAX_BITS}",
    )


def borders(ascending: Tensor) -> Tensor:
    """Half way between neighbours: [n, L] -> [n, L - 1]."""
    return (ascending[:, 1:] + ascending[:, :-1]) / 2


def nearest_entries(rows: Tensor, tables: Tensor) -> Tensor:
    """uint8 [n, K]: which entry of its row's ascending table [n, L] is closest; the lower one on ties."""
    return torch.searchsorted(borders(tables), rows, out_int32=True).to(torch.uint8)
