"""Activations as the products read them: gates, x * in_mix, quantisation; one program per token and set.

A set is one prepared input. Segments of a fused layer share x; with experts each has a set of its own,
because its input scales differ.

The quantisers are those of lowbit.formats.activations, bit for bit. Multiplications that are followed by an
addition there are written as `fma(a, b, 0)`: compilers may fuse a plain product with the sum behind it, which
rounds once instead of twice.
"""

import triton
import triton.language as tl

from .fields import correction_of
from .subnormal import power_of, scales_of, store_scales

FAST = tl.constexpr(0)  # position in lowbit.formats.PRECISIONS
EXACT = tl.constexpr(2)
_INFINITY_BITS = tl.constexpr(0x7F800000)
_ROUND = tl.constexpr(1.5 * 2.0**23)  # x + that - that is x rounded half to even, |x| < 2^22


@triton.jit
def prologue(
    x,
    router,
    in_scales,
    codes,
    token_scales,
    rests,
    sums,
    gates,
    x_row_stride,
    x_column_stride,
    in_features,
    padded,
    sum_factor,
    EXPERTS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACTIVATION_BITS: tl.constexpr,
    WIDTHS: tl.constexpr,
    UNIT: tl.constexpr,
    INTEGERS: tl.constexpr,
    SUBNORMAL: tl.constexpr,
    BLOCK: tl.constexpr,
    ROUTE: tl.constexpr,
):
    """What `stage` in staging.py asks for; it draws the results.

    Args:
        x: [M, in_features] with any strides.
        router, in_scales: [sets, EXPERTS, in_features] or None.
        sum_factor: of `sums`: 1 / (2^(B - b + 1)), what an offset counts in units of the product.
        EXPERTS: 0 without input scales, 1 with static ones.
        UNIT: inputs per value of `rests` and `sums`, 0 for the row.
        INTEGERS: rests and sums are int64 sums of codes, of rows.
        SUBNORMAL: token_scales are as subnormal.py draws them, with rests where UNIT > 0.
        BLOCK, ROUTE: inputs handled at a time, powers of two from 1024; with the router.
    """
    token = tl.program_id(0).to(tl.int64)
    tokens = tl.num_programs(0)
    set_ = tl.program_id(1)
    member = set_ * tokens + token
    x += token * x_row_stride
    if EXPERTS > 0:
        in_scales += set_ * EXPERTS * in_features
    # One gate per lane; lanes beyond the experts are padding.
    LANES: tl.constexpr = triton.next_power_of_2(max(EXPERTS, 1))
    lanes = tl.arange(0, LANES)
    gate = tl.full((LANES,), 1.0, tl.float32)
    if EXPERTS > 1:
        router += set_ * EXPERTS * in_features
        partial = tl.zeros((LANES, ROUTE), tl.float32)
        for first in range(0, in_features, ROUTE):
            inputs = first + tl.arange(0, ROUTE)
            values = tl.load(x + inputs.to(tl.int64) * x_column_stride, inputs < in_features, 0.0)
            weights = tl.load(
                router + lanes[:, None] * in_features + inputs[None, :],
                (lanes < EXPERTS)[:, None] & (inputs < in_features)[None, :],
                0.0,
            )
            partial += weights.to(tl.float32) * values.to(tl.float32)[None, :]
        logits = tl.where(lanes < EXPERTS, tl.sum(partial, 1), float("-inf"))
        # A NaN among the logits makes the total, and with it every gate, NaN.
        exponentials = tl.exp(logits - tl.max(logits, 0))
        gate = exponentials / tl.sum(exponentials, 0)
        tl.store(gates + member * EXPERTS + lanes, gate, lanes < EXPERTS)

    # Magnitudes as integers, which have the same order; NaN comes above infinity.
    largest = tl.zeros((BLOCK // 128,), tl.int32)
    for first in range(0, padded, BLOCK):
        z = _scaled(x, in_scales, gate, lanes, first, x_column_stride, in_features, EXPERTS, BLOCK)
        largest = tl.maximum(largest, tl.max(_magnitude(z), 1))
    amax = tl.max(largest, 0)
    live = amax < _INFINITY_BITS

    QUANTIZED: tl.constexpr = PRECISION != EXACT or ACTIVATION_BITS > 0
    PER_GROUP: tl.constexpr = PRECISION == FAST and ACTIVATION_BITS == 0
    TWO_COLUMNS: tl.constexpr = QUANTIZED and (
        ACTIVATION_BITS == 8 or (ACTIVATION_BITS == 0 and PRECISION != FAST)
    )
    if SUBNORMAL:
        power, inverse = power_of(amax)
        tl.store(token_scales + member, power)
        staged = scales_of(token_scales, set_, tl.num_programs(1), tokens, token, padded // 1024, UNIT > 0)
    row_rests = tl.zeros((BLOCK // 128,), tl.int64 if INTEGERS else tl.float32)
    row_sums = row_rests
    for first in range(0, padded, BLOCK):
        z = _scaled(x, in_scales, gate, lanes, first, x_column_stride, in_features, EXPERTS, BLOCK)
        groups = first // 128 + tl.arange(0, BLOCK // 128)
        exist = groups * 128 < padded
        inputs = groups[:, None] * 128 + tl.arange(0, 128)[None, :]
        if QUANTIZED:
            group_amax = tl.max(_magnitude(z), 1) if PER_GROUP else tl.zeros_like(groups) + amax
            code, scale = _quantize(z, group_amax, live, PRECISION, ACTIVATION_BITS)
            code = tl.where(inputs < in_features, code, 0)
            if TWO_COLUMNS:
                high = (code + 128) >> 8
                at = codes + 2 * member * padded + inputs
                tl.store(at, high.to(tl.int8), exist[:, None])
                tl.store(at + padded, (code - 256 * high).to(tl.int8), exist[:, None])
            else:
                tl.store(codes + member * padded + inputs, code.to(tl.int8), exist[:, None])
            correction = correction_of(groups, WIDTHS)
            if SUBNORMAL:
                lacking = tl.sum(code, 1) * correction
                magnitudes = tl.sum(tl.abs(code), 1)
                own_scale = scale * inverse
                store_scales(staged, own_scale, lacking, magnitudes, first, padded, UNIT > 0, WIDTHS[0])
            elif PER_GROUP:
                tl.store(token_scales + member * (padded // 128) + groups, scale, exist)
            elif first == 0:
                tl.store(token_scales + member, tl.max(scale, 0))
            if UNIT > 0 and not SUBNORMAL:
                PER_GROUP_UNITS: tl.constexpr = 128 // UNIT
                total = tl.sum(code.reshape(BLOCK // 128, PER_GROUP_UNITS, UNIT), 2)
                scaled = scale[:, None] * total.to(tl.float32)
                units = groups[:, None] * PER_GROUP_UNITS + tl.arange(0, PER_GROUP_UNITS)[None, :]
                at = member * (padded // UNIT) + units
                tl.store(rests + at, scaled * (0.5 * correction[:, None].to(tl.float32)), exist[:, None])
                tl.store(sums + at, scaled * sum_factor, exist[:, None])
            elif UNIT == 0:
                total = tl.sum(code, 1)
                if INTEGERS:
                    row_rests += (total * correction).to(tl.int64)
                    row_sums += total.to(tl.int64)
                else:
                    scaled = scale * total.to(tl.float32)
                    row_rests += scaled * (0.5 * correction.to(tl.float32))
                    row_sums += scaled * sum_factor
        else:
            tl.store(codes + member * padded + inputs, tl.where(live, z, float("nan")), exist[:, None])
    if QUANTIZED and UNIT == 0:
        tl.store(rests + member, tl.sum(row_rests, 0))
        tl.store(sums + member, tl.sum(row_sums, 0))


@triton.jit
def _scaled(
    x, in_scales, gate, lanes, first, x_column_stride, in_features, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):
    """x * sum_e gate_e in_scales_e of BLOCK inputs, float32 [BLOCK / 128, 128]; 0 beyond in_features."""
    inputs = first + tl.arange(0, BLOCK // 128)[:, None] * 128 + tl.arange(0, 128)[None, :]
    exist = inputs < in_features
    z = tl.load(x + inputs.to(tl.int64) * x_column_stride, exist, 0.0).to(tl.float32)
    if EXPERTS > 0:
        mix = tl.zeros_like(z)
        for expert in tl.static_range(EXPERTS):
            own = tl.sum(tl.where(lanes == expert, gate, 0.0), 0)
            scales = tl.load(in_scales + expert * in_features + inputs, exist, 0.0)
            mix += own * scales.to(tl.float32)
        z = z * mix
    return z


@triton.jit
def _magnitude(z):
    return z.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _quantize(z, amax_bits, live, PRECISION: tl.constexpr, ACTIVATION_BITS: tl.constexpr):
    """int32 codes like z, and the scale of each of its rows, whose largest magnitudes are amax_bits."""
    LARGEST: tl.constexpr = (
        2.0**ACTIVATION_BITS - 1.0 if ACTIVATION_BITS > 0 else (127.0 if PRECISION == FAST else 32639.0)
    )
    amax = amax_bits.to(tl.float32, bitcast=True)
    limit = tl.full(amax.shape, LARGEST, tl.float32)
    inverse = tl.div_rn(limit, amax)
    usable = live & ((inverse.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < _INFINITY_BITS)
    scale = tl.where(usable, tl.div_rn(amax, limit), tl.where(live, 0.0, float("nan")))
    inverse = tl.where(usable, inverse, 0.0)[:, None]
    steps = tl.fma(tl.where(live, z, 0.0), inverse.broadcast_to(z.shape), tl.zeros_like(z))
    if ACTIVATION_BITS == 0:
        code = (steps + _ROUND - _ROUND).to(tl.int32)
    else:
        upper = tl.floor((steps + 2.0**ACTIVATION_BITS) * 0.5)
        upper = tl.minimum(tl.maximum(upper, 0.0), LARGEST)
        code = tl.where(inverse != 0.0, 2 * upper.to(tl.int32) - (2**ACTIVATION_BITS - 1), 0)
    return code, scale
