"""Products of integer activations with digit blocks, for more tokens than a GEMV takes.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums, UNIT inputs a turn of the loop

A turn expands the weights of its inputs once for all columns of the tile: one field of their blocks, masked
where it lies and so 2^(w f) times its digits. It reads the blocks again for each field, from the first-level
cache. The factor is undone turn by turn:

    whole rows             in integers: each sum is brought to the factor of the topmost field
    scales inside a row    with the conversion to float

Nothing is masked in the loops: rows and columns beyond the last one repeat it.
"""

import triton
import triton.language as tl

from .epilogue import leave, segment_of
from .product import SPAN_INPUTS, unit_sums
from .row_scales import of_rows
from .sizes import SIZES

# Where out_features is a multiple of 16, as it mostly is, addresses of y need fewer registers.
_UNSEEN = tuple(size for size in SIZES if size != "out_features")


@triton.jit
def _turn(blocks, inputs, unit, WIDTH: tl.constexpr, UNIT: tl.constexpr):
    """UNIT inputs of a digit: number of their field, digits in place [rows, UNIT], codes [UNIT, columns]."""
    FIELDS: tl.constexpr = 8 // WIDTH
    BYTES: tl.constexpr = 128  # of a block
    CHUNKS: tl.constexpr = BYTES // UNIT
    byte = tl.arange(0, UNIT)
    group = unit // CHUNKS
    field = group % FIELDS
    place = group // FIELDS * BYTES + unit % CHUNKS * UNIT
    packed = tl.load(blocks[:, None] + (place + byte)[None, :], cache_modifier=".ca")
    mask = tl.cast(((1 << WIDTH) - 1) << (WIDTH * field), tl.uint8)
    own = tl.load(inputs[None, :] + (unit * UNIT + byte)[:, None])
    return field, (packed & mask).to(tl.int8, bitcast=True), own


@triton.jit
def _whole_pass(total, blocks, inputs, first, last, WIDTH: tl.constexpr, UNIT: tl.constexpr):
    """total * 2^WIDTH + int32 sums of products with one digit over the units first .. last - 1."""
    TOPMOST: tl.constexpr = 8 // WIDTH - 1
    added = tl.zeros_like(total)
    for unit in range(first, last):
        field, part, own = _turn(blocks, inputs, unit, WIDTH, UNIT)
        added += tl.dot(part, own, out_dtype=tl.int32) << (WIDTH * (TOPMOST - field))
    return (total << WIDTH) + (added >> (WIDTH * TOPMOST))


@triton.jit
def _scaled_pass(
    total,
    blocks,
    inputs,
    first,
    last,
    scales,
    offsets,
    row_groups,
    token_scales,
    rests,
    sums,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    TOKEN_GROUPS: tl.constexpr,
    RESTS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
):
    """total * 2^WIDTH + products with one digit over the units first .. last - 1, scaled one by one.

    With RESTS the share of rests and offsets is added as well.
    """
    CHUNKS: tl.constexpr = 128 // UNIT
    total = total * 2.0**WIDTH
    scale = tl.load(token_scales)
    for unit in range(first, last):
        field, part, own = _turn(blocks, inputs, unit, WIDTH, UNIT)
        value = unit_sums(part, own, PER_TOKEN)
        if TOKEN_GROUPS:
            scale = tl.load(token_scales + unit // CHUNKS)
        exponent = tl.cast((127 - WIDTH * field) << 23, tl.int32)  # of 2^-(w f)
        value *= (scale * exponent.to(tl.float32, bitcast=True))[None, :]
        if GROUP_UNITS > 0:
            group = unit // GROUP_UNITS
            if RESTS:
                value += tl.load(rests + unit)[None, :]
                if offsets is not None:
                    offset = of_rows(offsets, row_groups, group).to(tl.float32)
                    value += offset[:, None] * tl.load(sums + unit)[None, :]
            value *= of_rows(scales, row_groups, group).to(tl.float32)[:, None]
        total += value
    return total


@triton.jit(do_not_specialize=_UNSEEN)
def gemm(
    weight,
    codes,
    scales,
    offsets,
    token_scales,
    rests,
    sums,
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
    factor,
    SEGMENTS: tl.constexpr,
    SETS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    TOKEN_GROUPS: tl.constexpr,
    INTEGERS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One tile of y, or where SPLIT of its parts; arguments as of `product`."""
    BYTES: tl.constexpr = 128  # of a block
    TOKENS: tl.constexpr = BLOCK_COLUMNS // PER_TOKEN
    segment, first_row, end = segment_of(tl.program_id(1), out_features, SEGMENTS, BLOCK_ROWS)
    set_ = segment if SETS > 1 else 0
    padded = tl.cdiv(in_features, SPAN_INPUTS) * SPAN_INPUTS
    first_token = tl.program_id(0) * TOKENS
    # One address for the tile, and offsets of 32 bits from there: half the registers.
    own_row = tl.minimum(tl.arange(0, BLOCK_ROWS), end - 1 - first_row)
    own_token = tl.minimum(tl.arange(0, TOKENS), tokens - 1 - first_token)
    own_column = tl.minimum(tl.arange(0, BLOCK_COLUMNS), (tokens - first_token) * PER_TOKEN - 1)
    blocks = weight + tl.cast(first_row, tl.int64) * (row_blocks * BYTES) + own_row * (row_blocks * BYTES)
    member = set_ * tl.cast(tokens, tl.int64) + first_token
    inputs = codes + member * PER_TOKEN * padded + own_column * padded
    first = tl.program_id(2) * split_spans * (SPAN_INPUTS // UNIT)
    last = tl.minimum(first + split_spans * (SPAN_INPUTS // UNIT), tl.cdiv(in_features, UNIT))

    if INTEGERS:
        total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    else:
        total = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
        token_groups = padded // 128 if TOKEN_GROUPS else 1
        units = padded // UNIT
        row_groups = (tl.cast(first_row, tl.int64) * groups + own_row * groups,)
    for p in tl.static_range(len(WIDTHS)):
        if INTEGERS:
            total = _whole_pass(total, blocks, inputs, first, last, WIDTHS[p], UNIT)
        else:
            total = _scaled_pass(
                total,
                blocks,
                inputs,
                first,
                last,
                scales,
                offsets,
                row_groups,
                token_scales + member * token_groups + own_token * token_groups,
                rests + member * units + own_token * units,
                sums + member * units + own_token * units,
                WIDTHS[p],
                UNIT,
                GROUP_UNITS,
                TOKEN_GROUPS,
                p + 1 == len(WIDTHS),
                PER_TOKEN,
            )
        blocks += tl.cdiv(in_features * WIDTHS[p], SPAN_INPUTS) * BYTES

    leave(
        total, first_row + tl.arange(0, BLOCK_ROWS), end, set_, first_token + tl.arange(0, TOKENS),
        first_token * PER_TOKEN + tl.arange(0, BLOCK_COLUMNS), scales, offsets, token_scales, rests, sums,
        gates, out_scales, bias, y, tokens, out_features, factor, EXPERTS, INTEGERS, GROUP_UNITS, PER_TOKEN,
        SPLIT,
    )  # fmt: skip
