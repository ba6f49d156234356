"""Activations as the products read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from ..bits.config import GROUP_INPUTS, SPAN_INPUTS, prologue_blocks
from ..bits.prologue import EXACT, FAST, prologue
from ..launch import launch

HALVES_BLOCK = 1024
_LARGEST_EXPONENT = tl.constexpr(250)  # of an amax whose inverse is a normal number
_INFINITY_BITS = tl.constexpr(0x7F800000)


class Columns(NamedTuple):
    """x [M, K] = scales * (sum of a token's columns, 256 times the first of two int8 ones).

    codes   [M * per_token, Kp]: int8, 16-bit floats, or float32 (then there are no scales)
    scales  float32 [M, Kp / 128] in `fast`, else [M, 1]

    Inputs that pad are 0. A token with a non-finite activation has scales NaN, or values NaN without scales.
    """

    codes: Tensor
    scales: Tensor | None
    per_token: int


def stage_values(x: Tensor) -> Columns:
    """x as float32 [M, Kp]."""
    return _stage_whole(x, EXACT.value, 1)


def stage_integers(x: Tensor, precision: int) -> Columns:
    """x as `fast` (one int8 column, a scale per 128 inputs) or `high` (two, one scale) quantise it."""
    return _stage_whole(x, precision, 1 if precision == FAST.value else 2)


def _stage_whole(x: Tensor, precision: int, per_token: int) -> Columns:
    tokens, in_features = x.shape
    padded = -(-in_features // SPAN_INPUTS) * SPAN_INPUTS
    columns = tokens * per_token

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    unused: tuple[Tensor | None, Tensor | None]
    if precision == EXACT.value:
        codes, scales, unused = empty(torch.float32, columns, padded), None, (None, None)
    else:
        codes = empty(torch.int8, columns, padded)
        scales = empty(torch.float32, tokens, padded // GROUP_INPUTS if precision == FAST.value else 1)
        unused = (empty(torch.int64, tokens), empty(torch.int64, tokens))
    block, route = prologue_blocks(in_features, 0)
    launch(
        wrap_triton(prologue),
        (tokens, 1),
        x,
        None,
        None,
        codes,
        scales,
        *unused,
        None,
        x.stride(0),
        x.stride(1),
        in_features,
        padded,
        0.0,
        EXPERTS=0,
        PRECISION=precision,
        ACTIVATION_BITS=0,
        WIDTHS=(1,),
        UNIT=0,
        INTEGERS=True,
        SUBNORMAL=False,
        BLOCK=block,
        ROUTE=route,
        num_warps=8,
    )
    return Columns(codes, scales, per_token)


def stage_halves(x: Tensor, dtype: torch.dtype, padded: int) -> Columns:
    """x as 16-bit floats [M * per_token, padded], scaled by a power of two to amax in 1..2.

    One column where `dtype` holds x as it is, else two: x ~ scale * (first + second), to 16 bits and more.
    """
    one = x.dtype == dtype or (x.dtype == torch.bfloat16 and dtype == torch.float16)
    per_token = 1 if one else 2
    tokens, in_features = x.shape
    codes = torch.empty(tokens * per_token, padded, dtype=dtype, device=x.device)
    scales = torch.empty(tokens, 1, dtype=torch.float32, device=x.device)
    launch(
        wrap_triton(halves),
        (tokens,),
        x,
        codes,
        scales,
        x.stride(0),
        x.stride(1),
        in_features,
        padded,
        PER_TOKEN=per_token,
        BLOCK=HALVES_BLOCK,
        num_warps=4,
    )
    return Columns(codes, scales, per_token)


@triton.jit
def halves(
    x,
    codes,
    scales,
    x_row_stride,
    x_column_stride,
    in_features,
    padded,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What `stage_halves` promises, of one token."""
    token = tl.program_id(0).to(tl.int64)
    x += token * x_row_stride
    lane = tl.arange(0, BLOCK)
    # Magnitudes as integers, which have the same order; NaN comes above infinity.
    largest = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, in_features, BLOCK):
        inputs = first + lane
        value = tl.load(x + inputs.to(tl.int64) * x_column_stride, inputs < in_features, 0.0).to(tl.float32)
        largest = tl.maximum(largest, value.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    amax = tl.max(largest, 0)
    live = amax < _INFINITY_BITS
    # Powers of two by their exponents; 1 and 0 where amax is 0 or subnormal.
    exponent = tl.minimum(amax >> 23, _LARGEST_EXPONENT)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    inverse = tl.where(live & (exponent > 0), ((254 - exponent) << 23).to(tl.float32, bitcast=True), 0.0)
    tl.store(scales + token, tl.where(live, scale, float("nan")))
    codes += token * PER_TOKEN * padded
    for first in range(0, padded, BLOCK):
        inputs = first + lane
        value = tl.load(x + inputs.to(tl.int64) * x_column_stride, inputs < in_features, 0.0).to(tl.float32)
        value = tl.where(live, value, 0.0) * inverse
        high = value.to(codes.dtype.element_ty)
        tl.store(codes + inputs, high, inputs < padded)
        if PER_TOKEN == 2:
            low = (value - high.to(tl.float32)).to(codes.dtype.element_ty)
            tl.store(codes + padded + inputs, low, inputs < padded)
