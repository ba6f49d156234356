"""Digits of one width in `fast`: sums of 128 inputs are read as floats, and scaled by one instruction each.

Read as a float32, an int32 in [0, 2^23) is a subnormal number, 2^-149 times as large, which a multiply-add
takes at full speed and exactly. Sums start from what keeps them from being negative, so that

    subnormal(start + sum) * (scale * 2^132)           counts 2^-17

without a conversion. Whole rows, of one bit, add that to the total at once, and subtract what the starts add
before every four fields: added up over more, it would grow beyond what float32 tells from the sums.

With scales inside the row, digits of w bits start from what they lack (fields.correction_of) plus a power of
two P, above half of (2^w - 1) sum |code| and so above any product with 128 codes. The sum is then P more than
the product, and the multiply-add adds the rest, -P scale. That is exact but where what is lacking is odd, and
half a code stays for the rest: it is then rounded by 2^-24 P scale at most. Of the n codes of a group that
are no padding, in half codes,

    2^-24 2 P <= 2^-23 (2^w - 1) sum |code| <= 2^-23 (2^w - 1) |code| sqrt(n) <= 2^-23 (2^w - 1) |code| |v|

for a row of values v, all of magnitude 1 or more: 1.8e-6 |code| |v| for four bits, 0.18 of what the contract
allows, and by Cauchy and Schwarz of groups together as of each, whatever their scales. A start that is the
same for all tokens would have to be above the largest codes, and a rest of it be rounded accordingly.

Scales are those of the codes by a power of two of their token, so that none leaves the range of float32. All
that a span of 1024 inputs needs lies at fixed distances:

    powers      [sets][tokens]
    whole rows  [sets][tiles of 16 tokens][spans][8 scales, 2 sums of four starts][16 tokens]
    groups      [sets][tiles of 16 tokens][spans][8 scales, 8 rests, 8 starts][16 tokens]

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


def size(sets: int, tokens: int, spans: int, grouped: bool) -> int:
    """Of the tensor."""
    padded = -(-tokens // TILE) * TILE
    return sets * padded * (1 + spans * span_values(grouped))


@triton.constexpr_function
def span_values(grouped):
    """Of a token."""
    return 3 * SPAN_GROUPS if grouped else SPAN_GROUPS + 2


@triton.jit
def scales_of(staged, set_, sets, tokens, token, spans, GROUPED: tl.constexpr):
    """Where those of a token start; the next token of its tile has the next ones."""
    tiles, tile = tl.cdiv(tokens, _TILE), token // _TILE
    SPAN: tl.constexpr = span_values(GROUPED) * _TILE
    first = sets * tiles * _TILE + (set_ * tiles + tile) * (spans * SPAN)
    return staged + first + (token - tile * _TILE)  # of token % TILE the compiler does not see the alignment


@triton.jit
def _start_of(field):
    """More than any sum of a field of whole rows: one value for two, as each takes four registers."""
    return 1 << (15 + field // 2 * 2)


@triton.jit
def _power_below(value):
    """The largest power of two that is no more; 0 of 0."""
    return (value.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def power_of(amax_bits):
    """A power of two near the largest magnitude of a token, of which these are the bits, and 1 / power."""
    bits = tl.minimum(tl.maximum(amax_bits & 0x7F800000, 1 << 23), 253 << 23)
    return bits.to(tl.float32, bitcast=True), ((254 << 23) - bits).to(tl.float32, bitcast=True)


@triton.jit
def store_scales(staged, scale, lacking, codes, first, padded, GROUPED: tl.constexpr, WIDTH: tl.constexpr):
    """Those of the groups of whole spans, from input `first` on, of the token that `staged` is of.

    Args:
        scale: by the power of the token.
        lacking: what the sums of the groups lack, int32 in half codes; codes: the sums of their magnitudes;
            both are used where GROUPED.
    """
    GROUPS: tl.constexpr = scale.shape[0]
    SPAN: tl.constexpr = span_values(GROUPED) * _TILE
    group = first // _GROUP + tl.arange(0, GROUPS)
    groups = padded // _GROUP
    place = group % _GROUPS
    shift = group % (8 // WIDTH) * WIDTH  # of the field
    factor = ((127 + 126 - shift) << 23).to(tl.float32, bitcast=True)  # 2^(126 - shift)
    at = staged + group // _GROUPS * SPAN + place * _TILE
    tl.store(at, scale * 2.0**6 * factor, group < groups)
    if GROUPED:
        power = _power_below((codes * ((1 << WIDTH) - 1)).to(tl.float32))
        start = (power.to(tl.int32) << shift) + ((lacking << shift) >> 1)
        half = tl.where(shift == 0, lacking & 1, 0).to(tl.float32)  # which the start lacks
        tl.store(at + _GROUPS * _TILE, (0.5 * half - power) * 2.0**-17 * scale, group < groups)
        starts = at.to(tl.pointer_type(tl.int32), bitcast=True) + 2 * _GROUPS * _TILE
        tl.store(starts, start, group < groups)
    else:
        start = _start_of(shift).to(tl.float32) * (factor * 2.0**-126)  # in codes
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
    SPAN: tl.constexpr = span_values(False) * _TILE
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
    SPAN: tl.constexpr = span_values(True) * _TILE
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
