"""Small dense products in the precision of their columns: 16-bit floats with fp32 sums, or all fp32."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from ..gpu import gpu_of
from ..launch import launch
from .plan import plan
from .staging import Columns
from .target import interpreted

BLOCK_INPUTS = 64
HALVES_TILES = {"narrow": (64, 16, 4), "wide": (64, 64, 4)}
VALUES_TILES = {"narrow": (32, 16, 4), "wide": (32, 32, 4)}


def dense_splits(x: Columns, weight: Tensor, tokens: int) -> int:
    """Parts that `dense` writes."""
    return _plan(x, weight, tokens).splits


def dense(x: Columns, weight: Tensor, parts: Tensor) -> None:
    """parts [splits, M, R], float32, of x [M, K] and weight [R, K]."""
    own = _plan(x, weight, parts.shape[1])
    count, rows = x.codes.shape[0], weight.shape[0]
    launch(
        wrap_triton(dense_kernel),
        (-(-count // own.block_columns), -(-rows // own.block_rows), own.splits),
        weight,
        x.codes,
        x.scales,
        parts,
        count,
        rows,
        weight.shape[1],
        x.codes.shape[1],
        own.split_steps,
        PER_TOKEN=x.per_token,
        WIDEN=interpreted(),
        BLOCK_ROWS=own.block_rows,
        BLOCK_COLUMNS=own.block_columns,
        BLOCK_INPUTS=BLOCK_INPUTS,
        num_warps=own.warps,
        num_stages=3,
    )


def _plan(x: Columns, weight: Tensor, tokens: int):
    steps = -(-weight.shape[1] // BLOCK_INPUTS)
    name, tiles = ("values", VALUES_TILES) if x.scales is None else ("halves", HALVES_TILES)
    name = f"dense {name}, {x.per_token} a token"
    return plan(name, weight.shape[0], steps, tokens, gpu_of(weight.device), steps, **tiles)


@triton.jit
def dense_kernel(
    weight,
    codes,
    scales,
    parts,
    columns,
    out_features,
    in_features,
    stride,
    split_steps,
    PER_TOKEN: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    """parts [splits, columns / PER_TOKEN, out_features] in float32.

    Args:
        weight: floats [out_features][in_features].
        codes: [columns][stride], float32 or of weight's dtype; PER_TOKEN columns of a token add up.
        scales: float32 [columns / PER_TOKEN] or None.
        WIDEN: multiply in float32, which changes no product.
    """
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    within = tl.arange(0, BLOCK_INPUTS)
    own_rows = (weight + tl.minimum(rows, out_features - 1).to(tl.int64) * in_features)[:, None] + within[
        None, :
    ]
    own_columns = (codes + tl.minimum(column, columns - 1).to(tl.int64) * stride)[None, :] + within[:, None]

    OPERAND: tl.constexpr = tl.float32 if WIDEN else codes.dtype.element_ty
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    first = tl.program_id(2) * (split_steps * BLOCK_INPUTS)
    last = tl.minimum(first + split_steps * BLOCK_INPUTS, in_features)
    whole = first + (last - first) // BLOCK_INPUTS * BLOCK_INPUTS
    for begin in range(first, whole, BLOCK_INPUTS):
        w = tl.load(own_rows + begin).to(OPERAND)
        x = tl.load(own_columns + begin).to(OPERAND)
        total = tl.dot(w, x, total, input_precision="ieee")
    if whole < last:
        exist = whole + within < last
        w = tl.load(own_rows + whole, exist[None, :], 0.0).to(OPERAND)
        x = tl.load(own_columns + whole, exist[:, None], 0.0).to(OPERAND)
        total = tl.dot(w, x, total, input_precision="ieee")

    if PER_TOKEN == 2:
        first_column, second_column = tl.split(total.reshape(BLOCK_ROWS, BLOCK_COLUMNS // 2, 2))
        total = first_column + second_column
    token = tl.program_id(0) * (BLOCK_COLUMNS // PER_TOKEN) + tl.arange(0, BLOCK_COLUMNS // PER_TOKEN)
    tokens = columns // PER_TOKEN
    exist = token < tokens
    if scales is not None:
        total *= tl.load(scales + token, exist, 0.0)[None, :]
    at = (
        parts + (tl.program_id(2) * tl.cast(tokens, tl.int64) + token)[None, :] * out_features + rows[:, None]
    )
    tl.store(at, total, (rows < out_features)[:, None] & exist[None, :])
