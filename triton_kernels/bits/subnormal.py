"""One-bit weights in `fast`: sums of 128 inputs are read as floats, and scaled by one instruction each.

Read as a float32, an int32 in [0, 2^23) is a subnormal number, 2^-149 times as large, which a multiply-add
takes at full speed and exactly. Sums start from what keeps them from being negative, so that

    subnormal(start + sum) * (scale * 2^132)           counts 2^-17

without a conversion. Whole rows add that to the total at once, and subtract what the starts add before
every four fields: added up over more, it would grow beyond what float32 tells from the sums. With scales
inside the row it is part of the rest that is added to the product anyway. Scales are those of the codes by a
power of two of their token, so that none leaves the range of float32. All that a span of 1024 inputs needs
lies at fixed distances:

    powers      [sets][tokens]
    whole rows  [sets][tiles of 16 tokens][spans][8 scales, 2 sums of four starts][16 tokens]
    groups      [sets][tiles of 16 tokens][spans][8 scales, 8 rests][16 tokens]

float32 in one tensor; powers fill tiles as well. The scale of 128 inputs g is there times 2^(132 - f),
because their field f = g % 8 counts 2^f times.
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
_ROWS_SPAN = tl.constexpr((SPAN_GROUPS + 2) * TILE)  # of a tile
_GROUPS_SPAN = tl.constexpr(2 * SPAN_GROUPS * TILE)


def size(sets: int, tokens: int, spans: int, grouped: bool) -> int:
    """Of the tensor."""
    padded = -(-tokens // TILE) * TILE
    return sets * padded * (1 + spans * (2 * SPAN_GROUPS if grouped else SPAN_GROUPS + 2))


@triton.jit
def scales_of(staged, set_, sets, tokens, token, spans, GROUPED: tl.constexpr):
    """Where those of a token start; the next token of its tile has the next ones."""
    tiles, tile = tl.cdiv(tokens, _TILE), token // _TILE
    span = _GROUPS_SPAN if GROUPED else _ROWS_SPAN
    first = sets * tiles * _TILE + (set_ * tiles + tile) * (spans * span)
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
def store_scales(staged, scale, rest, first, padded, GROUPED: tl.constexpr):
    """Those of the groups of whole spans, from input `first` on, of the token that `staged` is of.

    Args:
        scale: by the power of the token.
        rest: what the sums of the groups lack, in codes; used where GROUPED.
    """
    GROUPS: tl.constexpr = scale.shape[0]
    group = first // _GROUP + tl.arange(0, GROUPS)
    groups = padded // _GROUP
    field = group % _GROUPS
    factor = ((127 + 126 - field) << 23).to(tl.float32, bitcast=True)  # 2^(126 - f)
    start = _start_of(field).to(tl.float32) * (factor * 2.0**-126)  # in codes
    if GROUPED:
        at = staged + group // _GROUPS * _GROUPS_SPAN + field * _TILE
        tl.store(at + _GROUPS * _TILE, (rest - start) * 2.0**-17 * scale, group < groups)
    else:
        at = staged + group // _GROUPS * _ROWS_SPAN + field * _TILE
        half = first // (4 * _GROUP) + tl.arange(0, GROUPS // 4)
        added = (scale * (start * 2.0**-17)).reshape(GROUPS // 4, 4)
        sums = staged + half // 2 * _ROWS_SPAN + (_GROUPS + half % 2) * _TILE
        tl.store(sums, tl.sum(added, 1), half * 4 < groups)
    tl.store(at, scale * 2.0**6 * factor, group < groups)


@triton.jit
def _sums(packed, inputs, exist, like, FIELD: tl.constexpr):
    """Those of a field with its start, as floats, shaped like `like`."""
    byte = tl.arange(0, _GROUP)
    own = tl.load(inputs[None, :] + (byte + FIELD * _GROUP)[:, None], exist[None, :], 0)
    start = tl.full(like.shape, _start_of(FIELD), tl.int32)
    return tl.dot(field_of(packed, FIELD, 1), own, start, out_dtype=tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def add_rows(total, blocks, inputs, exist, first, last, staged):
    """total + products over the spans first .. last - 1, each a block of weights; `staged` of the tokens."""
    byte = tl.arange(0, _GROUP)
    for span in range(first, last):
        packed = tl.load((blocks + span * _GROUP)[:, None] + byte[None, :])
        own_inputs = inputs + span * (_GROUPS * _GROUP)
        own_staged = staged + span * _ROWS_SPAN
        for field in tl.static_range(8):
            if field % 4 == 0:
                total -= tl.load(own_staged + (_GROUPS + field // 4) * _TILE)[None, :]
            sums = _sums(packed, own_inputs, exist, total, field)
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
    GROUP_UNITS: tl.constexpr,
    QUADS: tl.constexpr,
):
    """The same with `scales` of rows, each for 128 GROUP_UNITS inputs; for QUADS see `product`."""
    byte = tl.arange(0, _GROUP)
    for span in range(first, last):
        packed = tl.load((blocks + span * _GROUP)[:, None] + byte[None, :])
        own_inputs = inputs + span * (_GROUPS * _GROUP)
        own_staged = staged + span * _GROUPS_SPAN
        if QUADS:
            quads = (quads_of(scales, row_groups, span * 2), quads_of(scales, row_groups, span * 2 + 1))
        for field in tl.static_range(8):
            sums = _sums(packed, own_inputs, exist, total, field)
            scale = tl.load(own_staged + field * _TILE)[None, :]
            rest = tl.load(own_staged + (_GROUPS + field) * _TILE)[None, :]
            value = tl.fma(sums, scale.broadcast_to(total.shape), rest.broadcast_to(total.shape))
            if QUADS:
                row_scale = of_quads(quads, field, scales)
            else:
                # Behind the last group there are only inputs that do not exist.
                group = tl.minimum((span * _GROUPS + field) // GROUP_UNITS, groups - 1)
                row_scale = of_rows(scales, row_groups, group).to(tl.float32)
            total += value * row_scale[:, None]
    return total
