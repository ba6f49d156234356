"""Tiles, warps and splits of a product: pure functions of shape and GPU, so nothing is tuned at load.

What `lowbit tune` has measured on the GPU goes before them, and then what is shipped for GPUs like it.

The numbers come from the compiled code. 128 rows in four warps amortise the fragments of the activations
(0.51 thread-instructions per one-bit weight at 16 columns on sm_80, 0.59 with eight warps or with 64 rows).
Wider tiles than 16 columns spill, or cost as much per column; for many tokens there is another kernel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

from ..gpu import Gpu

SPAN_INPUTS = 1024
GROUP_INPUTS = 128  # of a field of a block, and those that share an activation scale in `fast`
EXACT_UNIT = 32  # inputs that `exact` multiplies at a time, a divisor of every group
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
    """What tiles are chosen for; `str()` is its key in tables of them.

    Attributes:
        form: "integers" (sums over whole rows), "scaled" (sums leave the integers inside a row) or "exact".
        segments: rows of each of the layers that were fused.
        widths: bits of the digits, most significant first.
        columns_per_token: int8 ones, or one of float32.
        group_size: of scales inside a row, else -1.
        offsets: whether there are any. fast: activations have a scale per 128 inputs.
    """

    form: str
    segments: tuple[int, ...]
    in_features: int
    widths: tuple[int, ...]
    columns_per_token: int
    group_size: int = -1
    offsets: bool = False
    fast: bool = False

    def __str__(self) -> str:
        rows, bits = ("+".join(map(str, sizes)) for sizes in (self.segments, self.widths))
        kind = f"{bits} bits, {self.columns_per_token} columns{self.scales}"
        return f"{self.form} {rows} x {self.in_features}, {kind}"

    @property
    def scales(self) -> str:
        """Those inside a row and offsets, which cost loads and registers, in words."""
        groups = f", groups of {self.group_size}" if self.grouped else ""
        return groups + ", offsets" * self.offsets + ", fast" * self.fast

    @property
    def grouped(self) -> bool:
        return self.group_size > 0

    @property
    def subnormal(self) -> bool:
        """Whether a multiply-add brings the scales of activations to sums: subnormal.py."""
        if self.grouped:
            return self.fast and len(self.widths) == 1 and self.unit == GROUP_INPUTS and not self.offsets
        return self.fast and self.widths == (1,)

    @property
    def mixed(self) -> bool:
        """Whether digits of one bit, which have most sums, lie beside others."""
        return len(self.widths) > 1 and 1 in self.widths

    @property
    def unit(self) -> int:
        """Inputs of a product whose sums are scaled: a divisor of every group, and of 128."""
        if self.form == "exact":
            return EXACT_UNIT
        return gcd(self.group_size, GROUP_INPUTS) if self.grouped else GROUP_INPUTS

    @property
    def halved(self) -> bool:
        """Whether loops over scaled sums take half a span a turn.

        Else registers do not hold the scales of a turn beside all the rest. Digits of one bit have no halves,
        and all digits of a row have turns of as many inputs.
        """
        if self.form != "scaled" or 1 in self.widths:
            return False
        if len(self.widths) > 1:
            return self.columns_per_token > 1
        return self.grouped and (self.unit == GROUP_INPUTS or self.offsets)

    def turn_inputs(self, width: int) -> int:
        """Inputs that the loop of `product` over a digit multiplies in a turn."""
        return (width // 2 if self.halved else width) * self.unit * 8 // width

    @property
    def whole_turns(self) -> bool:
        return all(self.in_features % self.turn_inputs(width) == 0 for width in self.widths)

    @staticmethod
    def parse(key: str) -> Product:
        """The inverse of `str()`.

        Raises:
            ValueError: it is none.
        """
        pattern = (
            r"(\w+) ([\d+]+) x (\d+), ([\d+]+) bits, (\d) columns(?:, groups of (\d+))?(, offsets)?(, fast)?"
        )
        found = re.fullmatch(pattern, key)
        if found is None:
            raise ValueError(f"'{key}' is no product over bits")
        form, rows, inputs, bits, columns, group, offsets, fast = found.groups()
        segments, widths = (tuple(map(int, sizes.split("+"))) for sizes in (rows, bits))
        scales = (int(group or -1), offsets is not None, fast is not None)
        return Product(form, segments, int(inputs), widths, int(columns), *scales)


def row_tiles(segments: Sequence[int], block_rows: int) -> int:
    """Tiles of rows; each segment starts with one of its own."""
    return sum(-(-size // block_rows) for size in segments)


def config(product: Product, tokens: int, gpu: Gpu) -> Config:
    """How to compute a product.

    Up to GEMV_TOKENS tokens the split of a row, on which its last bit may depend, is the same for all.
    """
    columns = tokens * product.columns_per_token
    exact = product.form == "exact"
    if not exact and tokens > GEMV_TOKENS and columns > GEMV_COLUMNS:
        return _gemm(product, columns, gpu)
    # Digits of several bits are multiplied several blocks at a time, which are one stage; scales inside a row
    # need the registers that addresses of a third stage take. Without these, two spill on sm_120.
    whole = product.form == "integers" or (
        product.form == "scaled" and not product.grouped and gpu.capability[0] == 12
    )
    stages = 3 if whole and max(product.widths) == 1 else 2
    rows, width, warps = (32, 16, 4) if exact else _tile(product, columns, gpu)
    # A second span of one-bit weights takes less time than the kernel that adds two parts up.
    short = not exact and product.widths == (1,) and product.in_features <= 2 * SPAN_INPUTS
    per_multiprocessor = 0 if short else PROGRAMS_PER_MULTIPROCESSOR
    if tokens <= GEMV_TOKENS and (tiles := gpu.tiles(str(product))) is not None:
        per_multiprocessor, rows, warps, stages = tiles.over(rows, warps, stages)
    # 32 rows and 16 columns a warp spill, but on sm_90, where columns come to wgmma from shared memory.
    fast_rows = product.subnormal and not product.grouped
    sums = fast_rows or (product.form == "integers" and product.mixed)
    # So do digits of four bits on sm_80, 86 and 89, in parts of rows.
    sums |= product.form == "integers" and product.widths == (4,) and gpu.capability[0] == 8
    wgmma = gpu.capability[0] == 9 and (fast_rows or warps >= 4)
    if sums and width > 8 and not gpu.amd and not wgmma:
        warps = max(warps, rows // 16)
    programs = row_tiles(product.segments, rows)
    if tokens > GEMV_TOKENS:
        programs *= -(-columns // width)
    wanted = max(1, -(-per_multiprocessor * gpu.multiprocessors // programs))
    kernel = "exact" if exact else "product"
    return Config(kernel, rows, width, warps, stages, *_splits(product.in_features, wanted))


def _tile(product: Product, columns: int, gpu: Gpu) -> tuple[int, int, int]:
    """Rows, columns and warps, each with 32 rows, of integer products.

    Four warps, but two where a turn of four would stage 64 KB of weights, or scales of rows that are no whole
    turns would take more registers than there are on sm_100. Scaled sums of several digits have four with
    64 KB, where there is as much, as two spill on sm_80; with digits of four and two bits four do. Rows
    that are no whole turns spill with digits of one bit and 128 of them on sm_100, and on sm_120 if there are
    other digits: these have 16 rows a warp.
    """
    scaled = product.form == "scaled"
    # Without a second column to join at once, sums of 16 columns with scales of rows spill.
    converted = scaled and product.columns_per_token == 1 and not product.subnormal
    width = 8 if columns <= 8 or converted else 16
    two_warps = gpu.amd or not scaled or product.widths == (4, 2)
    spans = 4 in product.widths and product.turn_inputs(4) == SPAN_INPUTS and two_warps
    ragged = scaled and product.grouped and not product.whole_turns
    if not gpu.amd and (found := _exception(product, gpu.capability, ragged)) is not None:
        return found[0], width, found[1]
    if ragged and product.mixed and gpu.capability[0] >= 10:
        return 64, width, 4
    narrow = ragged and (1 not in product.widths or gpu.capability[0] == 10)
    return (64, width, 2) if spans or narrow else (128, width, 4)


def _exception(product: Product, capability: tuple[int, int], ragged: bool) -> tuple[int, int] | None:
    """Rows and warps of kinds whose usual tiles spill 8 to 32 bytes on one architecture.

    `make triton-sweep` finds them. Subnormal sums by 128 have two warps on sm_90, which multiply as those of
    sm_80: wgmma would have starts moved. One bit, 16 columns, took 1.03 instructions a weight by wgmma and
    0.91 so, when all tokens had one start; with a start each, wgmma has not been compiled.
    """
    major, minor = capability
    if major == 8 and product.widths == (1,) and product.offsets and product.unit == GROUP_INPUTS:
        return 64, 2
    if major == 8 and minor > 0 and (found := _exception_86(product, ragged)) is not None:
        return found
    if product.subnormal and product.grouped and (major == 9 or (major == 10 and product.widths == (2,))):
        return 64, 2
    if major == 9 and product.widths == (2, 1) and product.unit == 64 and product.fast:
        return 64, 2
    if major in (9, 10) and len(product.widths) > 1 and product.fast and not product.grouped:
        return 64, 2
    if major == 12 and ragged and product.widths == (2,) and product.unit == 64:
        return 128, 4
    return None


def _exception_86(product: Product, ragged: bool) -> tuple[int, int] | None:
    """The same of sm_86 and sm_89."""
    if product.fast:
        return (128, 4) if product.widths == (4, 2) and not product.grouped else None
    by_64 = ragged and product.widths == (2,) and product.unit == 64
    by_128 = product.widths == (2, 1) and product.offsets and product.unit == GROUP_INPUTS
    return (64, 4) if by_64 or by_128 else None


def _gemm(product: Product, columns: int, gpu: Gpu) -> Config:
    """Tiles that reuse weights and columns, as large as registers allow.

    128 x 128 spill with offsets, and with several digits if each has sums of its own or all sums, of one
    column per token, are converted. These spill on sm_90 anyway, where a thread has parts of 64 columns
    instead of 16: there all of them have 64 rows, which leaves 128 columns to share the weights' masks. So
    they have on AMD. A program has a multiprocessor for itself; rows are split where at least half of those
    have none.
    """
    rows, width, warps, stages = 128, 128, 8, 2
    converted = product.form == "scaled" and product.columns_per_token == 1
    several = len(product.widths) > 1
    offsets = product.grouped and product.offsets
    crowded = offsets or (several and (converted or product.form == "integers"))
    narrow = columns <= 64
    if (crowded or converted) and (gpu.amd or (gpu.capability[0] == 9 and not narrow)):
        # Three digits and 128 columns of sums in integers leave four warps no registers: 224 bytes on sm_90.
        crowd = product.form == "integers" and len(product.widths) > 2 and not (narrow or gpu.amd)
        rows, width, warps = 64, 64 if narrow else 128, 8 if crowd else 4
    elif narrow or crowded:
        width = 64
        stages = 2 if crowded or converted else 3
    programs = row_tiles(product.segments, rows) * -(-columns // width)
    wanted = max(1, gpu.multiprocessors // programs)
    return Config("gemm", rows, width, warps, stages, *_splits(product.in_features, wanted))


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
