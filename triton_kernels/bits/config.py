"""Tiles, warps and splits of a product: pure functions of shape and GPU, so nothing is tuned at load.

What `lowbit tune` has measured on the GPU goes before them, and then what is shipped for GPUs like it.

The numbers come from the compiled code. 128 rows in four warps amortise the fragments of the activations
(0.51 thread-instructions per one-bit weight at 16 columns on sm_80, 0.59 with eight warps or with 64 rows).
Wider tiles than 16 columns spill, or cost as much per column; for many tokens there is another kernel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..gpu import Gpu

SPAN_INPUTS = 1024
GEMV_TOKENS = 16  # up to here a row of y has the same bits whatever the number of tokens
GEMV_COLUMNS = 32  # beyond GEMV_TOKENS: more than that are a GEMM
PROGRAMS_PER_MULTIPROCESSOR = 2


class Config(NamedTuple):
    """block_rows x block_columns of y, computed by `warps` warps with `stages` blocks of weights under way.

    Rows are cut into splits of `split_spans` times 1024 inputs.
    """

    kernel: str  # "product", "gemm" or "exact"
    block_rows: int
    block_columns: int
    warps: int
    stages: int
    split_spans: int
    splits: int


class Product(NamedTuple):
    """What tiles are chosen for, up to GEMV_TOKENS tokens; `str()` is its key in tables of them."""

    form: str
    segments: tuple[int, ...]
    in_features: int
    widths: tuple[int, ...]
    columns_per_token: int
    scales: str  # those inside a row, in words, each after a comma

    def __str__(self) -> str:
        rows, bits = ("+".join(map(str, sizes)) for sizes in (self.segments, self.widths))
        kind = f"{bits} bits, {self.columns_per_token} columns{self.scales}"
        return f"{self.form} {rows} x {self.in_features}, {kind}"

    @property
    def group_size(self) -> int:
        """-1: rows are whole."""
        found = re.search(r"groups of (\d+)", self.scales)
        return int(found[1]) if found else -1

    @property
    def precision(self) -> str:
        return "fast" if self.scales.endswith(", fast") else "high"

    @staticmethod
    def parse(key: str) -> Product:
        """The inverse of `str()`.

        Raises:
            ValueError: it is none.
        """
        found = re.fullmatch(r"(\w+) ([\d+]+) x (\d+), ([\d+]+) bits, (\d) columns(.*)", key)
        if found is None:
            raise ValueError(f"'{key}' is no product over bits")
        form, rows, inputs, bits, columns, scales = found.groups()
        segments, widths = (tuple(map(int, sizes.split("+"))) for sizes in (rows, bits))
        return Product(form, segments, int(inputs), widths, int(columns), scales)


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
    offsets: bool = False,
) -> Config:
    """How to compute a product with `segments` rows of in_features inputs.

    Up to GEMV_TOKENS tokens the split of a row, on which its last bit may depend, is the same for all.

    Args:
        form: "integers" (sums over whole rows), "scaled" (sums leave the integers inside a row) or "exact".
        widths: bits of the digits.
        scales: those inside a row, in words; only tiles from tables depend on them.
        offsets: whether there are offsets inside a row.
    """
    columns = tokens * columns_per_token
    if form != "exact" and tokens > GEMV_TOKENS and columns > GEMV_COLUMNS:
        return _gemm(segments, in_features, columns, columns_per_token, gpu, form, len(widths), offsets)
    # Digits of several bits are multiplied several blocks at a time, which are one stage; scales inside a row
    # need the registers that addresses of a third stage take.
    stages = 3 if form == "integers" and max(widths) == 1 else 2
    if form == "exact":
        rows, width, warps = 32, 16, 4
    else:
        # Without a second column to join at once, scaled sums of 16 columns spill.
        narrow = columns <= 8 or (form == "scaled" and columns_per_token == 1)
        rows, width, warps = 128, 8 if narrow else 16, 4
    # A second span of one-bit weights takes less time than the kernel that adds two parts up.
    short = form != "exact" and tuple(widths) == (1,) and in_features <= 2 * SPAN_INPUTS
    per_multiprocessor = 0 if short else PROGRAMS_PER_MULTIPROCESSOR
    if tokens <= GEMV_TOKENS:
        product = Product(form, tuple(segments), in_features, tuple(widths), columns_per_token, scales)
        if (tiles := gpu.tiles(str(product))) is not None:
            per_multiprocessor, rows, warps, stages = tiles.over(rows, warps, stages)
    programs = row_tiles(segments, rows)
    if tokens > GEMV_TOKENS:
        programs *= -(-columns // width)
    wanted = max(1, -(-per_multiprocessor * gpu.multiprocessors // programs))
    kernel = "exact" if form == "exact" else "product"
    return Config(kernel, rows, width, warps, stages, *_splits(in_features, wanted))


def _gemm(
    segments: Sequence[int],
    in_features: int,
    columns: int,
    columns_per_token: int,
    gpu: Gpu,
    form: str,
    digits: int,
    offsets: bool,
) -> Config:
    """Tiles that reuse weights and columns, as large as registers allow.

    128 x 128 spill with offsets, and with several digits if each has sums of its own or all sums, of one
    column per token, are converted. These spill on sm_90 anyway, where a thread has parts of 64 columns
    instead of 16: there all of them have 64 rows, which leaves 128 columns to share the weights' masks. So
    they have on AMD. A program has a multiprocessor for itself; rows are split where at least half of those
    have none.
    """
    rows, width, warps, stages = 128, 128, 8, 2
    converted = form == "scaled" and columns_per_token == 1
    crowded = offsets or (digits > 1 and (converted or form == "integers"))
    narrow = columns <= 64
    if (crowded or converted) and (gpu.amd or (gpu.capability[0] == 9 and not narrow)):
        rows, width, warps = 64, 64 if narrow else 128, 4
    elif narrow or crowded:
        width = 64
        stages = 2 if crowded or converted else 3
    programs = row_tiles(segments, rows) * -(-columns // width)
    wanted = max(1, gpu.multiprocessors // programs)
    return Config("gemm", rows, width, warps, stages, *_splits(in_features, wanted))


def _splits(in_features: int, wanted: int) -> tuple[int, int]:
    """Spans of a split, and how many there are: `wanted` of them if the row has as many spans."""
    spans = -(-in_features // SPAN_INPUTS)
    split_spans = -(-spans // min(wanted, spans))
    return split_spans, -(-spans // split_spans)


def prologue_blocks(in_features: int, experts: int) -> tuple[int, int]:
    """Inputs that the prologue handles at a time, and with how many the router does: powers of two."""
    padded = -(-in_features // SPAN_INPUTS) * SPAN_INPUTS
    block = min(1 << (padded - 1).bit_length(), 2048)
    lanes = 1 << max(experts - 1, 0).bit_length()
    return block, max(128, min(block, 8192 // lanes))
