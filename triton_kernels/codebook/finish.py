"""The end of every product: parts are added, what lies outside the tables joins them, and y is written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from ..launch import launch

BLOCK_ROWS = 128


def finish(
    y: Tensor,
    parts: Tensor,
    bias: Tensor | None,
    outliers: tuple[Tensor, Tensor, Tensor] | None = None,
    values: Tensor | None = None,
) -> None:
    """y [M, N] = sum of parts (float32 [splits, M, N], ascending) + outliers x + bias.

    Args:
        outliers: offsets int32 [N + 1], columns int32 and values of a matrix in CSR form.
        values: float32 [M, Kp], what outliers are multiplied with.
    """
    splits, tokens, out_features = parts.shape
    launch(
        wrap_triton(finish_kernel),
        (tokens, -(-out_features // BLOCK_ROWS)),
        y,
        parts,
        bias,
        *(outliers or (None, None, None)),
        values,
        splits,
        out_features,
        values.shape[1] if values is not None else 0,
        BLOCK_ROWS=BLOCK_ROWS,
        num_warps=4,
    )


@triton.jit
def finish_kernel(
    y,
    parts,
    bias,
    outlier_offsets,
    outlier_columns,
    outlier_values,
    values,
    splits,
    out_features,
    padded,
    BLOCK_ROWS: tl.constexpr,
):
    """128 rows of one token; a lane follows the outliers of its row, in their order."""
    token = tl.program_id(0).to(tl.int64)
    tokens = tl.num_programs(0)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    live = rows < out_features
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    for split in range(splits):
        total += tl.load(parts + (split * tokens + token) * out_features + rows, live, 0.0)
    if outlier_offsets is not None:
        entry = tl.load(outlier_offsets + rows, live, 0)
        end = tl.load(outlier_offsets + rows + 1, live, 0)
        for _ in range(tl.max(end - entry, 0)):
            exist = entry < end
            column = tl.load(outlier_columns + entry, exist, 0)
            weight = tl.load(outlier_values + entry, exist, 0.0).to(tl.float32)
            value = tl.load(values + token * padded + column)
            total += tl.where(exist, weight * value, 0.0)
            entry += 1
    if bias is not None:
        total += tl.load(bias + rows, live, 0.0).to(tl.float32)
    tl.store(y + token * out_features + rows, total.to(y.dtype.element_ty), live)


def part_buffer(x: Tensor, splits: int, out_features: int) -> Tensor:
    """float32 [splits, M, N] where x is."""
    return torch.empty(splits, x.shape[0], out_features, dtype=torch.float32, device=x.device)
