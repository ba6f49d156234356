"""Digits of one width in `fast`: sums of 128 inputs are read as floats, and scaled by one instruction each.

Read as a float32, an int32 in [0, 2^23) is a subnormal number, 2^-149 times as large, which a multiply-add
takes at full speed and exactly. Sums start from what keeps them from being negative, so that

    subnormal(start + sum) * (scale * 2^132)           counts 2^-17

without a conversion. Whole rows, of one bit, add that to the total at once, and subtract what the starts add
before every four fields: added up over more, it would grow beyond what float32 tells from the sums. With
scales inside the row it is part of the rest that is added to the product anyway. The larger the starts, the
less exact are rests; those of digits of several bits would be too large, and hold what stored digits lack
instead: sums are then of the true product, and what a start adds beyond that is a power of two. Scales are
those of the codes by a power of two of their token, so that none leaves the range of float32. All that a span
of 1024 inputs needs lies at fixed distances:

    powers           [sets][tokens]
    whole rows       [sets][tiles of 16 tokens][spans][8 scales, 2 sums of four starts][16 tokens]
    groups, one bit  [sets][tiles of 16 tokens][spans][8 scales, 8 rests][16 tokens]
    other groups     [sets][tiles of 16 tokens][spans][8 scales, 8 rests, 8 starts][16 tokens]

float32 in one tensor, but for the starts, int32; powers fill tiles as well. The scale of 128 inputs is there
times 2^(132 - w f), because their field f of w bits counts 2^(w f) times.
"""

import triton
import triton.language as tl

from .fields import field_of
from .row_scales import of_quads, of_rows, quads_of

TILE = 16
SPAN_GROUPS = 8
_GROUP = tl.constexpr(128)
_TILE = tl.constexpr(TILE)
_GROUPS = tl.constexpr(SPAN_GROUPS)


def size(sets: int, tokens: int, spans: int, grouped: bool, width: int) -> int:
    """Of the tensor."""
    padded = -(-tokens // TILE) * TILE
    return sets * padded * (1 + spans * span_values(grouped, width))


@triton.constexpr_function
def span_values(grouped, width):
    """Of a token."""
    if not grouped:
        return SPAN_GROUPS + 2
    return (2 if width == 1 else 3) * SPAN_GROUPS


@triton.jit
def scales_of(staged, set_, sets, tokens, token, spans, GROUPED: tl.constexpr, WIDTH: tl.constexpr):
    """Where those of a token start; the next token of its tile has the next ones."""
    tiles, tile = tl.cdiv(tokens, _TILE), token // _TILE
    SPAN: tl.constexpr = span_values(GROUPED, WIDTH) * _TILE
    first = sets * tiles * _TILE + (set_ * tiles + tile) * (spans * SPAN)
    return staged + first + (token - tile * _TILE)  # of token % TILE the compiler does not see the alignment


@triton.jit
def _start_of(field):
    """More than the magnitude of any sum of a field: one value for two, as each takes four registers."""
    return 1 << (15 + field // 2 * 2)


@triton.jit
def power_of(amax_bits):
    """A power of two near the largest magnitude of a token, of which these are the bits, and 1 / power."""
    bits = tl.minimum(tl.maximum(amax_bits & 0x7F800000, 1 << 23), 253 << 23)
    return bits.to(tl.float32, bitcast=True), ((254 << 23) - bits).to(tl.float32, bitcast=True)


@triton.jit
def store_scales(staged, scale, lacking, first, padded, GROUPED: tl.constexpr, WIDTH: tl.constexpr):
    """Those of the groups of whole spans, from input `first` on, of the token that `staged` is of.

    Args:
        scale: by the power of the token.
        lacking: what the sums of the groups lack, int32 in half codes; used where GROUPED.
    """
    GROUPS: tl.constexpr = scale.shape[0]
    SPAN: tl.constexpr = span_values(GROUPED, WIDTH) * _TILE
    group = first // _GROUP + tl.arange(0, GROUPS)
    groups = padded // _GROUP
    place = group % _GROUPS
    shift = group % (8 // WIDTH) * WIDTH  # of the field
    factor = ((127 + 126 - shift) << 23).to(tl.float32, bitcast=True)  # 2^(126 - shift)
    at = staged + group // _GROUPS * SPAN + place * _TILE
    tl.store(at, scale * 2.0**6 * factor, group < groups)
    if WIDTH > 1:
        # No product of 128 codes exceeds 127 * 64 (2^w - 1), in codes.
        LARGEST: tl.constexpr = 1 << (13 + WIDTH)
        start = (LARGEST << shift) + ((lacking << shift) >> 1)
        half = tl.where(shift == 0, lacking & 1, 0).to(tl.float32)  # which the start lacks
        tl.store(at + _GROUPS * _TILE, (0.5 * half - LARGEST) * 2.0**-17 * scale, group < groups)
        starts = at.to(tl.pointer_type(tl.int32), bitcast=True) + 2 * _GROUPS * _TILE
        tl.store(starts, start, group < groups)
    else:
        start = _start_of(shift).to(tl.float32) * (factor * 2.0**-126)  # in codes
        if GROUPED:
            rest = 0.5 * lacking.to(tl.float32) - start
            tl.store(at + _GROUPS * _TILE, rest * 2.0**-17 * scale, group < groups)
        else:
            half = first // (4 * _GROUP) + tl.arange(0, GROUPS // 4)
            added = (scale * (start * 2.0**-17)).reshape(GROUPS // 4, 4)
            sums = staged + half // 2 * SPAN + (_GROUPS + half % 2) * _TILE
            tl.store(sums, tl.sum(added, 1), half * 4 < groups)


@triton.jit
def _sums(packed, inputs, exist, start, FIELD: tl.constexpr, WIDTH: tl.constexpr):
    """Those of a field, from `start` on, as floats."""
    byte = tl.arange(0, _GROUP)
    own = tl.load(inputs[None, :] + byte[:, None], exist[None, :], 0)
    sums = tl.dot(field_of(packed, FIELD, WIDTH), own, start, out_dtype=tl.int32)
    return sums.to(tl.float32, bitcast=True)


@triton.jit
def add_rows(total, blocks, inputs, exist, first, last, staged):
    """total + products over the spans first .. last - 1, each a block of weights; `staged` of the tokens."""
    SPAN: tl.constexpr = span_values(False, 1) * _TILE
    byte = tl.arange(0, _GROUP)
    for span in range(first, last):
        packed = tl.load((blocks + span * _GROUP)[:, None] + byte[None, :])
        own_inputs = inputs + span * (_GROUPS * _GROUP)
        own_staged = staged + span * SPAN
        for field in tl.static_range(8):
            if field % 4 == 0:
                total -= tl.load(own_staged + (_GROUPS + field // 4) * _TILE)[None, :]
            start = tl.full(total.shape, _start_of(field), tl.int32)
            sums = _sums(packed, own_inputs + field * _GROUP, exist, start, field, 1)
            scale = tl.load(own_staged + field * _TILE)[None, :]
            total = tl.fma(sums, scale.broadcast_to(total.shape), total)
    return total


@triton.jit
def add_groups(
    total,
    blocks,
    inputs,
    exist,
    first,
    last,
    staged,
    scales,
    row_groups,
    groups,
    WIDTH: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    UNROLL: tl.constexpr,
    QUADS: tl.constexpr,
):
    """The same with `scales` of rows, each for 128 GROUP_UNITS inputs; for QUADS see `product`.

    UNROLL: blocks of a turn, whose groups are a span or a half.
    """
    FIELDS: tl.constexpr = 8 // WIDTH
    SPAN: tl.constexpr = span_values(True, WIDTH) * _TILE
    byte = tl.arange(0, _GROUP)
    for turn in range(first, last, UNROLL):
        first_group = turn * FIELDS
        own_blocks = blocks + turn * _GROUP
        own_inputs = inputs + first_group * _GROUP
        own_staged = staged + (first_group // _GROUPS * SPAN + first_group % _GROUPS * _TILE)
        starts = own_staged.to(tl.pointer_type(tl.int32), bitcast=True) + 2 * _GROUPS * _TILE
        if QUADS:
            quads = ()
            for quad in tl.static_range(UNROLL * FIELDS // 4):
                quads = quads + (quads_of(scales, row_groups, (first_group >> 2) + quad),)  # type: ignore[assignment]  # noqa: RUF005
        for i in tl.static_range(UNROLL):
            packed = tl.load(own_blocks[:, None] + (byte + i * _GROUP)[None, :])
            for field in tl.static_range(FIELDS):
                place = i * FIELDS + field
                if WIDTH == 1:
                    start = tl.full(total.shape, _start_of(field), tl.int32)
                else:
                    start = tl.load(starts + place * _TILE)[None, :].broadcast_to(total.shape)
                sums = _sums(packed, own_inputs + place * _GROUP, exist, start, field, WIDTH)
                scale = tl.load(own_staged + place * _TILE)[None, :]
                rest = tl.load(own_staged + (_GROUPS + place) * _TILE)[None, :]
                value = tl.fma(sums, scale.broadcast_to(total.shape), rest.broadcast_to(total.shape))
                if QUADS:
                    row_scale = of_quads(quads, i * FIELDS + field, scales)
                else:
                    # Behind the last group there are only inputs that do not exist.
                    group = tl.minimum((first_group + place) // GROUP_UNITS, groups - 1)
                    row_scale = of_rows(scales, row_groups, group).to(tl.float32)
                total += value * row_scale[:, None]
    return total
