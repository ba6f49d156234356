"""Whole rows of one bit in `fast`: sums of 128 inputs are scaled and added up by one instruction each.

Read as a float32, an int32 in [0, 2^23) is a subnormal number, 2^-149 times as large, which a multiply-add
takes at full speed and exactly. Sums start from what keeps them from being negative, so that

    total += subnormal(start + sum) * (scale * 2^132)           counts 2^-17

without a conversion. What the starts add is subtracted before every four fields: added up over more, it would
grow beyond what float32 tells from the sums. Scales are those of the codes by a power of two of their token,
so that none leaves the range of float32. All that a span of 1024 inputs needs lies at fixed distances:

    powers      [sets][tokens]
    scales      [sets][tiles of 16 tokens][spans][8 scales, 2 sums of four starts][16 tokens]

float32 in one tensor; powers fill tiles as well. The scale of group g is there times 2^(132 - f), because its
field f = g % 8 counts 2^f times.
"""

import triton
import triton.language as tl

from .fields import field_of

TILE = 16
SPAN_GROUPS = 8
_GROUP = tl.constexpr(128)
_TILE = tl.constexpr(TILE)
_GROUPS = tl.constexpr(SPAN_GROUPS)
SPAN_SCALES = tl.constexpr((SPAN_GROUPS + 2) * TILE)  # of a tile


def size(sets: int, tokens: int, spans: int) -> int:
    """Of the tensor."""
    padded = -(-tokens // TILE) * TILE
    return sets * padded * (1 + spans * (SPAN_GROUPS + 2))


@triton.jit
def scales_of(staged, set_, sets, tokens, token, spans):
    """Where those of a token start; the next token of its tile has the next ones."""
    tiles, tile = tl.cdiv(tokens, _TILE), token // _TILE
    first = sets * tiles * _TILE + (set_ * tiles + tile) * (spans * SPAN_SCALES)
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
def store_scales(staged, scale, inverse, first, padded):
    """Those of the groups of whole spans, from input `first` on, of the token that `staged` is of."""
    GROUPS: tl.constexpr = scale.shape[0]
    group = first // _GROUP + tl.arange(0, GROUPS)
    groups = padded // _GROUP
    field = group % _GROUPS
    scale = scale * inverse
    factor = ((127 + 126 - field) << 23).to(tl.float32, bitcast=True)  # 2^(126 - f)
    at = staged + group // _GROUPS * SPAN_SCALES + field * _TILE
    tl.store(at, scale * 2.0**6 * factor, group < groups)
    added = scale * (_start_of(field).to(tl.float32) * 2.0**-17) * (factor * 2.0**-126)
    half = first // (4 * _GROUP) + tl.arange(0, GROUPS // 4)
    at = staged + half // 2 * SPAN_SCALES + (_GROUPS + half % 2) * _TILE
    tl.store(at, tl.sum(added.reshape(GROUPS // 4, 4), 1), half * 4 < groups)


@triton.jit
def add_rows(total, blocks, inputs, exist, first, last, scales):
    """total + products over the spans first .. last - 1, each a block of weights; `scales` of the tokens."""
    BYTES: tl.constexpr = 128  # of a block
    byte = tl.arange(0, BYTES)
    for span in range(first, last):
        packed = tl.load((blocks + span * BYTES)[:, None] + byte[None, :])
        own_inputs = inputs + span * (8 * BYTES)
        own_scales = scales + span * SPAN_SCALES
        for field in tl.static_range(8):
            if field % 4 == 0:
                total -= tl.load(own_scales + (_GROUPS + field // 4) * _TILE)[None, :]
            own = tl.load(own_inputs[None, :] + (field * BYTES + byte)[:, None], exist[None, :], 0)
            start = tl.full(total.shape, _start_of(field), tl.int32)
            part = field_of(packed, field, 1)
            sums = tl.dot(part, own, start, out_dtype=tl.int32).to(tl.float32, bitcast=True)
            scale = tl.load(own_scales + field * _TILE)[None, :]
            total = tl.fma(sums, scale.broadcast_to(total.shape), total)
    return total
