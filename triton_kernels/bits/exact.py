"""Products in fp32: codes are put together from their digits and multiplied on the plain cores."""

import triton
import triton.language as tl

from .epilogue import finish, segment_of
from .product import SPAN_INPUTS
from .sizes import SIZES


@triton.jit(do_not_specialize=SIZES)
def exact(
    weight,
    values,
    scales,
    offsets,
    gates,
    out_scales,
    bias,
    y,
    tokens,
    out_features,
    in_features,
    row_blocks,
    groups,
    split_spans,
    SEGMENTS: tl.constexpr,
    SETS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    BITS: tl.constexpr,
    DROPPED: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One tile of y, or of its parts [splits, tokens, out_features] where SPLIT. See `product`.

    Args:
        values: float32 [sets][tokens][padded].
        UNIT: inputs that are multiplied at a time, a divisor of every group and of 128.
        BITS, DROPPED: bits of a stored code that are multiplied, the sum of WIDTHS, and those below them.
    """
    BYTES: tl.constexpr = 128  # of a block
    segment, first_row, end = segment_of(tl.program_id(1), out_features, SEGMENTS, BLOCK_ROWS)
    set_ = segment if SETS > 1 else 0
    padded = tl.cdiv(in_features, SPAN_INPUTS) * SPAN_INPUTS
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    stored = tl.minimum(rows, end - 1).to(tl.int64)
    token = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    exist = token < tokens
    inputs = values + (set_ * tl.cast(tokens, tl.int64) + token) * padded
    blocks = weight + stored * (row_blocks * BYTES)
    byte = tl.arange(0, UNIT)
    CHUNKS: tl.constexpr = BYTES // UNIT
    SPAN_CHUNKS: tl.constexpr = 1024 // UNIT
    first_chunk = tl.program_id(2) * split_spans * SPAN_CHUNKS
    last_chunk = tl.minimum(first_chunk + split_spans * SPAN_CHUNKS, tl.cdiv(in_features, UNIT))

    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for chunk in range(first_chunk, last_chunk):
        group = chunk // CHUNKS
        code = tl.zeros((BLOCK_ROWS, UNIT), tl.int32)
        digit = blocks
        for p in tl.static_range(len(WIDTHS)):
            start = group // (8 // WIDTHS[p]) * BYTES + chunk % CHUNKS * UNIT
            packed = tl.load(digit[:, None] + (start + byte)[None, :]).to(tl.int32) ^ 0x80
            own_digit = packed >> (group % (8 // WIDTHS[p]) * WIDTHS[p]) & ((1 << WIDTHS[p]) - 1)
            code = (code << WIDTHS[p]) + own_digit
            digit += tl.cdiv(in_features * WIDTHS[p], SPAN_INPUTS) * BYTES
        weights = (2 * code - ((1 << BITS) - 1)) << DROPPED
        own_group = stored * groups + chunk // GROUP_UNITS if GROUP_UNITS > 0 else stored
        if offsets is not None:
            weights += tl.load(offsets + own_group).to(tl.int32)[:, None]
        own = tl.load(inputs[None, :] + (chunk * UNIT + byte)[:, None], exist[None, :], 0.0)
        more = tl.dot(weights.to(tl.float32), own, input_precision="ieee")
        if GROUP_UNITS > 0:
            more *= tl.load(scales + own_group).to(tl.float32)[:, None]
        total += more

    if SPLIT:
        parts = y + tl.program_id(2) * tl.cast(tokens, tl.int64) * out_features
        at = parts + token.to(tl.int64)[None, :] * out_features + rows[:, None]
        tl.store(at, total, (rows < end)[:, None] & exist[None, :])
    else:
        finish(
            total, rows, end, set_, token, scales, None, None, None, None, gates, out_scales, bias, y, tokens,
            out_features, 1.0, EXPERTS, False, scales is not None and GROUP_UNITS == 0, False, False,
        )  # fmt: skip
