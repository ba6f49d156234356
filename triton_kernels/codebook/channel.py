"""Shared channels with a low-rank correction: dense products with few rows or few columns.

axis 0   parts = x [weight; low_rank_in]^T          y = parts[labels] + low_rank_out parts[C ..]
axis 1   parts = x summed by label, x low_rank_in^T y = weight parts + low_rank_out parts[C ..]
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from lowbit.backends.arguments import ChannelArguments
from torch import Tensor
from torch.library import wrap_triton

from ..bits.prologue import EXACT
from ..launch import launch
from .dense import dense, dense_splits
from .finish import finish, part_buffer
from .staging import Columns, stage_halves, stage_values

BLOCK_LABELS, BLOCK_MEMBERS = 32, 16
# From 64 rows on Triton multiplies float32 as TF32 on sm_100, "ieee" or not.
GATHER_ROWS, GATHER_TOKENS, GATHER_RANK = 32, 16, 32


def channel_linear(a: ChannelArguments) -> Tensor:
    """y [M, N] of x [M, K].

    With axis 1 labels are those of lowbit.backends.cuda.order_labels. `exact`, float32 weights and axis 1 are
    in float32; else x is two 16-bit floats where one does not hold it.
    """
    y = torch.empty(a.x.shape[0], a.out_features, dtype=a.x.dtype, device=a.x.device)
    if a.x.shape[0] == 0:
        return y
    if a.axis == 0:
        halves = a.precision != EXACT.value and a.weight.dtype != torch.float32
        columns = stage_halves(a.x, a.weight.dtype, a.in_features) if halves else stage_values(a.x)
        low = None if a.low_rank_in is None else _product(columns, a.low_rank_in, a.x)
        gather(y, _product(columns, a.weight, a.x), a.labels, a.low_rank_out, low, a.bias)
        return y
    values = stage_values(a.x)
    summands = [(_sum_by_label(values, a.labels, a.weight.shape[1], a.in_features), a.weight)]
    if a.low_rank_out is not None and a.low_rank_in is not None:
        summands.append((Columns(_product(values, a.low_rank_in, a.x), None, 1), a.low_rank_out))
    splits = [dense_splits(columns, matrix, a.x.shape[0]) for columns, matrix in summands]
    parts = part_buffer(a.x, sum(splits), a.out_features)
    for (columns, matrix), own in zip(summands, parts.split(splits), strict=True):
        dense(columns, matrix, own)
    finish(y, parts, a.bias)
    return y


def _product(columns: Columns, matrix: Tensor, x: Tensor) -> Tensor:
    """float32 [M, R] of x [M, K], staged as `columns`, and matrix [R, K]."""
    splits, tokens = dense_splits(columns, matrix, x.shape[0]), x.shape[0]
    parts = part_buffer(x, splits, matrix.shape[0])
    dense(columns, matrix, parts)
    if splits == 1:
        return parts[0]
    sums = torch.empty(tokens, matrix.shape[0], dtype=torch.float32, device=x.device)
    finish(sums, parts, None)
    return sums


def _sum_by_label(values: Columns, labels: Tensor, clusters: int, in_features: int) -> Columns:
    """float32 [M, C]: x summed over the inputs of each label, in their order."""
    tokens, padded = values.codes.shape
    sums = torch.empty(tokens, clusters, dtype=torch.float32, device=values.codes.device)
    launch(
        wrap_triton(sum_by_label),
        (tokens, -(-clusters // BLOCK_LABELS)),
        values.codes,
        labels,
        sums,
        clusters,
        in_features,
        padded,
        BLOCK_LABELS=BLOCK_LABELS,
        BLOCK_MEMBERS=BLOCK_MEMBERS,
        num_warps=4,
    )
    return Columns(sums, None, 1)


def gather(
    y: Tensor,
    sums: Tensor,
    labels: Tensor,
    low_rank_out: Tensor | None,
    low: Tensor | None,
    bias: Tensor | None,
) -> None:
    """y [M, N] = sums [M, C] by label + low [M, r] low_rank_out^T + bias."""
    tokens, out_features = y.shape
    # Triton has no pointers to uint16.
    wide = labels.view(torch.int16) if labels.dtype == torch.uint16 else labels
    launch(
        wrap_triton(gather_labels),
        (-(-tokens // GATHER_TOKENS), -(-out_features // GATHER_ROWS)),
        y,
        sums,
        wide,
        low_rank_out,
        low,
        bias,
        tokens,
        out_features,
        sums.shape[1],
        0 if low is None else low.shape[1],
        BLOCK_ROWS=GATHER_ROWS,
        BLOCK_TOKENS=GATHER_TOKENS,
        BLOCK_RANK=GATHER_RANK,
        num_warps=4,
    )


@triton.jit
def sum_by_label(
    values,
    labels,
    sums,
    clusters,
    in_features,
    padded,
    BLOCK_LABELS: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr,
):
    """sums [M, clusters] of values [M, padded]; labels as lowbit.backends.cuda.order_labels draws them."""
    token = tl.program_id(0).to(tl.int64)
    label = tl.program_id(1) * BLOCK_LABELS + tl.arange(0, BLOCK_LABELS)
    exist = label < clusters
    begins = labels + in_features
    order = begins + clusters + 1
    begin = tl.load(begins + label, exist, 0)
    end = tl.load(begins + label + 1, exist, 0)
    total = tl.zeros((BLOCK_LABELS, BLOCK_MEMBERS), tl.float32)
    for member in range(0, tl.max(end - begin, 0), BLOCK_MEMBERS):
        place = begin[:, None] + member + tl.arange(0, BLOCK_MEMBERS)[None, :]
        own = place < end[:, None]
        inputs = tl.load(order + place, own, 0)
        total += tl.load(values + token * padded + inputs, own, 0.0)
    tl.store(sums + token * clusters + label, tl.sum(total, 1), exist)


@triton.jit
def gather_labels(
    y,
    sums,
    labels,
    low_rank_out,
    low,
    bias,
    tokens,
    out_features,
    clusters,
    rank,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
):
    """y [M, N] = sums [M, clusters] by label + low [M, rank] low_rank_out^T + bias."""
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    live = rows < out_features
    exist = live[:, None] & (token < tokens)[None, :]
    label = tl.load(labels + rows, live, 0).to(tl.int32)
    if labels.dtype.element_ty == tl.int16:
        label &= 0xFFFF
    total = tl.load(sums + token.to(tl.int64)[None, :] * clusters + label[:, None], exist, 0.0)
    if low_rank_out is not None:
        lane = tl.arange(0, BLOCK_RANK)
        correction = tl.zeros((BLOCK_ROWS, BLOCK_TOKENS), tl.float32)
        for first in range(0, rank, BLOCK_RANK):
            inside = first + lane < rank
            own = low_rank_out + rows.to(tl.int64)[:, None] * rank + (first + lane)[None, :]
            outer = tl.load(own, live[:, None] & inside[None, :], 0.0).to(tl.float32)
            inner = low + token.to(tl.int64)[None, :] * rank + (first + lane)[:, None]
            inner = tl.load(inner, inside[:, None] & (token < tokens)[None, :], 0.0)
            correction = tl.dot(outer, inner, correction, input_precision="ieee")
        total += correction
    if bias is not None:
        total += tl.load(bias + rows, live, 0.0).to(tl.float32)[:, None]
    at = y + token.to(tl.int64)[None, :] * out_features + rows[:, None]
    tl.store(at, total.to(y.dtype.element_ty), exist)
