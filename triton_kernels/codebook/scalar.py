"""Scalar codebooks: a table of 2^B entries for each row."""

from __future__ import annotations

import torch
from lowbit.backends.arguments import ScalarArguments
from lowbit.backends.triton_codebook_layout import SUPERBLOCK_INPUTS, TABLE_BITS, head_lines, superblocks_of
from torch import Tensor
from torch.library import wrap_triton

from ..bits.prologue import EXACT, FAST
from ..gpu import gpu_of
from ..launch import launch
from .finish import finish, part_buffer
from .plan import plan
from .scalar_floats import TOKENS, scalar_floats
from .scalar_selectors import scalar_selectors
from .staging import Columns, stage_integers, stage_values
from .target import has_prmt

# Sums of a split: |sum| <= 128 * 128 * inputs < 2^31.
MOST_INTEGER_STEPS = 65536 // SUPERBLOCK_INPUTS
FLOAT_TILES = {"narrow": (32, TOKENS, 4), "wide": (32, TOKENS, 4)}


def scalar_linear(a: ScalarArguments) -> Tensor:
    """y [M, N] of x [M, K], the weight laid out.

    Up to 4 bits `fast` and `high` multiply integers: tables in fixed point with quantised activations. All
    else is in float32; `fast` quantises activations there as well.
    """
    out_features, entries = a.tables.shape
    y = torch.empty(a.x.shape[0], out_features, dtype=a.x.dtype, device=a.x.device)
    if a.x.shape[0] == 0:
        return y
    bits = entries.bit_length() - 1
    integers = a.precision != EXACT.value and bits <= TABLE_BITS
    fast = a.precision == FAST.value
    columns = stage_integers(a.x, a.precision) if integers or fast else None
    values = None
    if a.outlier_offsets is not None or not integers:
        values = (
            _dequantize(columns, a.in_features) if fast and columns is not None else stage_values(a.x).codes
        )
    if integers:
        assert columns is not None
        parts = _selectors(a.x, a.weight, columns, bits, out_features, a.in_features)
    else:
        assert values is not None
        parts = _floats(a.x, a.weight, a.tables, values, bits, a.in_features)
    outliers = None
    if a.outlier_offsets is not None and a.outlier_columns is not None and a.outlier_values is not None:
        outliers = (a.outlier_offsets, a.outlier_columns, a.outlier_values)
    finish(y, parts, a.bias, outliers, values)
    return y


def _dequantize(columns: Columns, in_features: int) -> Tensor:
    """float32 [M, Kp] of `fast` columns: what they stand for."""
    assert columns.scales is not None
    groups = columns.scales.shape[1]
    return (columns.codes.unflatten(1, (groups, -1)) * columns.scales[:, :, None]).flatten(1)


def selector_tiles(fast: bool, amd: bool) -> dict[str, tuple[int, int, int]]:
    """Tiles of the integer form; see `plan`. `fast` has float sums beside the integer ones.

    On AMD permutations take registers of their own.
    """
    if amd:
        return {"narrow": (128, 16, 8), "wide": (64, 32, 4) if fast else (128, 64, 8)}
    return {"narrow": (128, 16, 4), "wide": (128, 32 if fast else 64, 8)}


def _selectors(
    x: Tensor, weight: Tensor, columns: Columns, bits: int, out_features: int, in_features: int
) -> Tensor:
    steps, count = superblocks_of(in_features), columns.codes.shape[0]
    fast = columns.per_token == 1
    gpu = gpu_of(x.device)
    tiles = selector_tiles(fast, gpu.amd)
    own = plan(
        f"selectors {bits} bits {'fast' if fast else 'high'}",
        out_features,
        steps,
        x.shape[0],
        gpu,
        MOST_INTEGER_STEPS,
        **tiles,
    )
    parts = part_buffer(x, own.splits, out_features)
    launch(
        wrap_triton(scalar_selectors),
        (-(-count // own.block_columns), -(-out_features // own.block_rows), own.splits),
        weight,
        columns.codes,
        columns.scales,
        parts,
        count,
        out_features,
        columns.codes.shape[1],
        steps,
        own.split_steps,
        BITS=bits,
        HEAD=head_lines(bits),
        PER_TOKEN=columns.per_token,
        PRMT=has_prmt(),
        BLOCK_ROWS=own.block_rows,
        BLOCK_COLUMNS=own.block_columns,
        num_warps=own.warps,
        num_stages=3,
    )
    return parts


def _floats(x: Tensor, weight: Tensor, tables: Tensor, values: Tensor, bits: int, in_features: int) -> Tensor:
    steps, out_features = superblocks_of(in_features), tables.shape[0]
    own = plan(
        f"scalar floats {bits} bits", out_features, steps, x.shape[0], gpu_of(x.device), steps, **FLOAT_TILES
    )
    parts = part_buffer(x, own.splits, out_features)
    launch(
        wrap_triton(scalar_floats),
        (-(-x.shape[0] // own.block_columns), -(-out_features // own.block_rows), own.splits),
        weight,
        tables,
        values,
        parts,
        x.shape[0],
        out_features,
        values.shape[1],
        steps,
        own.split_steps,
        BITS=bits,
        HEAD=head_lines(bits),
        BLOCK_ROWS=own.block_rows,
        BLOCK_TOKENS=own.block_columns,
        num_warps=own.warps,
        num_stages=1,
    )
    return parts
