"""Tiles, warps and splits of a product: pure functions of shape and GPU, so nothing is tuned at load.

What `lowbit tune` has measured on the GPU goes before them.

The numbers come from the compiled code. 128 rows in four warps amortise the fragments of the activations
(0.51 thread-instructions per one-bit weight at 16 columns on sm_80, 0.59 with eight warps or with 64 rows).
Wider tiles than 16 columns spill, or cost as much per column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..gpu import Gpu

SPAN_INPUTS = 1024
GEMV_TOKENS = 16  # up to here a row of y has the same bits whatever the number of tokens
PROGRAMS_PER_MULTIPROCESSOR = 2


class Config(NamedTuple):
    """block_rows x block_columns of y, computed by `warps` warps with `stages` blocks of weights under way.

    Rows are cut into splits of `split_spans` times 1024 inputs.
    """

    block_rows: int
    block_columns: int
    warps: int
    stages: int
    split_spans: int
    splits: int


def row_tiles(segments: Sequence[int], block_rows: int) -> int:
    """Tiles of rows; each segment starts with one of its own."""
    return sum(-(-size // block_rows) for size in segments)


def config(
    segments: Sequence[int],
    in_features: int,
    tokens: int,
    columns_per_token: int,
    gpu: Gpu,
    form: str,
    widths: Sequence[int] = (1,),
    scales: str = "",
) -> Config:
    """How to compute a product with `segments` rows of in_features inputs.

    Up to GEMV_TOKENS tokens the split of a row, on which its last bit may depend, is the same for all.

    Args:
        form: "integers" (sums over whole rows), "scaled" (sums leave the integers inside a row) or "exact".
        widths: bits of the digits.
        scales: those inside a row, in words; only measured tiles depend on them.
    """
    columns = tokens * columns_per_token
    # Digits of several bits are multiplied several blocks at a time, which are one stage; scales inside a row
    # need the registers that addresses of a third stage take.
    stages = 3 if form == "integers" and max(widths) == 1 else 2
    if form == "exact":
        rows, width, warps = 32, 16, 4
    else:
        # Without a second column to join at once, scaled sums of 16 columns spill.
        narrow = columns <= 8 or (form == "scaled" and columns_per_token == 1)
        rows, width, warps = 128, 8 if narrow else 16, 4
    per_multiprocessor = PROGRAMS_PER_MULTIPROCESSOR
    if tokens <= GEMV_TOKENS:
        shape = f"{'+'.join(map(str, segments))} x {in_features}"
        product = f"{form} {shape}, {'+'.join(map(str, widths))} bits, {columns_per_token} columns{scales}"
        if (tuned := gpu.tuned.get(product)) is not None:
            per_multiprocessor, rows, warps, stages = tuned.over(rows, warps, stages)
    programs = row_tiles(segments, rows)
    if tokens > GEMV_TOKENS:
        programs *= -(-columns // width)
    spans = -(-in_features // SPAN_INPUTS)
    wanted = -(-per_multiprocessor * gpu.multiprocessors // programs)
    split_spans = -(-spans // min(wanted, spans))
    return Config(rows, width, warps, stages, split_spans, -(-spans // split_spans))


def prologue_blocks(in_features: int, experts: int) -> tuple[int, int]:
    """Inputs that the prologue handles at a time, and with how many the router does: powers of two."""
    padded = -(-in_features // SPAN_INPUTS) * SPAN_INPUTS
    block = min(1 << (padded - 1).bit_length(), 2048)
    lanes = 1 << max(experts - 1, 0).bit_length()
    return block, max(128, min(block, 8192 // lanes))
