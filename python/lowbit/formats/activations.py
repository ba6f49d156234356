"""Activation quantisers in plain torch: what the integer kernels compute with, bit for bit.

Everything is float32 arithmetic on each token (the last dimension, K inputs), rounding half to even.

    fast     int8, one scale per 128 inputs (last group short):
                 scale = amax / 127            q = round(x * (127 / amax))
    high     16-bit fixed point, one scale per token:
                 scale = amax / 32639          q = clamp(round(x * (32639 / amax)), -32639, 32639)
             A kernel holds q as two int8 columns, q = 256 q0 + q1; 32639 = 127 * 256 + 127 is the largest.
    bipolar  A = 1..8 bits, one scale per token, odd values and no zero:
                 scale = amax / (2^A - 1)      t = x * ((2^A - 1) / amax)
                 u = clamp(floor((t + 2^A) / 2), 0, 2^A - 1)      q = 2 u - (2^A - 1)

amax = 0, or so small that the factor of x overflows, gives scale 0 and codes 0. A token with a NaN or an
infinity gets codes 0 and scales NaN, so that its whole output row is NaN without a branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import DtypeError, ValueRangeError

PRECISIONS = ("fast", "high", "exact")
FAST_GROUP = 128
FAST_MAX = 127
HIGH_MAX = 32639
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class QuantizedActivations:
    """Integer codes and their scales.

    Attributes:
        codes: int8 (fast) or int16 (high, bipolar), [..., K].
        scales: float32 [..., G], one per group of inputs.
        group_size: inputs per scale; -1 is the whole token (G = 1).
    """

    codes: Tensor
    scales: Tensor
    group_size: int

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """codes * scales, [..., K]."""
        scales = self.scales
        if self.group_size != -1:
            scales = scales.repeat_interleave(self.group_size, dim=-1)[..., : self.codes.shape[-1]]
        return self.codes.to(dtype) * scales.to(dtype)


def quantize_activations(x: Tensor, precision: str = "fast") -> QuantizedActivations:
    """Quantise float activations [..., K] as the precisions 'fast' and 'high' do.

    Raises:
        ValueRangeError: another precision ('exact' keeps activations as they are).
        DtypeError: x is not floating point.
    """
    if precision == "fast":
        return _round_to_grid(_as_float32(x), FAST_GROUP, FAST_MAX, torch.int8)
    if precision == "high":
        return _round_to_grid(_as_float32(x), -1, HIGH_MAX, torch.int16)
    raise ValueRangeError(
        "precision without an activation quantiser", found=repr(precision), allowed="fast, high"
    )


def quantize_bipolar(x: Tensor, bits: int) -> QuantizedActivations:
    """Quantise float activations [..., K] to odd values of `bits` bits (1..8), one scale per token."""
    check_activation_bits(bits)
    values = _as_float32(x)
    largest = 2**bits - 1
    scales, inverse, live = _scales(values, largest)
    steps = torch.where(live, values, 0.0) * inverse
    codes = ((steps + 2.0**bits) * 0.5).floor().clamp(0, largest)
    odd = torch.where(live & (inverse != 0), 2 * codes - largest, 0.0)
    return QuantizedActivations(odd.to(torch.int16), scales, -1)


def check_activation_bits(bits: int) -> None:
    """Raise :class:`ValueRangeError` unless `bits` is 1..8."""
    if not 1 <= bits <= 8:
        raise ValueRangeError(
            "unsupported activation_bits", found=bits, allowed="1..8, or 0 for float activations"
        )


def check_precision(precision: str) -> None:
    """Raise :class:`ValueRangeError` unless `precision` is known."""
    if precision not in PRECISIONS:
        raise ValueRangeError("unknown precision", found=repr(precision), allowed=", ".join(PRECISIONS))


def prepare_activations(x: Tensor, precision: str, activation_bits: int = 0) -> Tensor:
    """The activations that a product sees: quantised and dequantised, or, for 'exact', as they are.

    float32 (float64 when x is float64), differentiable straight through the quantiser. Tokens with a
    non-finite value become NaN throughout.
    """
    check_precision(precision)
    _check_float(x)
    values = x if x.dtype == torch.float64 else x.float()
    if activation_bits:
        quantized = quantize_bipolar(x.detach(), activation_bits)
    elif precision != "exact":
        quantized = quantize_activations(x.detach(), precision)
    else:
        finite = values.isfinite().all(dim=-1, keepdim=True)
        return torch.where(finite, values, torch.nan)
    return _StraightThrough.apply(values, quantized.dequantize(values.dtype))


class _StraightThrough(torch.autograd.Function):
    """Forward: the second argument. Backward: the gradient goes to the first, unchanged."""

    @staticmethod
    def forward(ctx: object, values: Tensor, quantized: Tensor) -> Tensor:
        return quantized

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _check_float(x: Tensor) -> None:
    if x.dtype not in FLOAT_DTYPES:
        raise DtypeError(
            "wrong dtype of the input", found=x.dtype, allowed="float16, bfloat16, float32, float64"
        )


def _as_float32(x: Tensor) -> Tensor:
    _check_float(x)
    return x.float()


def _scales(values: Tensor, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, its inverse and "all finite" of each vector in the last dimension: three times [..., 1]."""
    live = values.isfinite().all(dim=-1, keepdim=True)
    amax = torch.where(live, values.abs().amax(dim=-1, keepdim=True), torch.nan)
    # Tensor by tensor: torch turns `number / tensor` into a product with the reciprocal, which rounds twice.
    limit = torch.full_like(amax, largest)
    inverse = limit / amax
    usable = inverse.isfinite()
    scales = torch.where(usable | ~live, amax / limit, 0.0)
    return scales, torch.where(usable, inverse, 0.0), live


def _round_to_grid(values: Tensor, group_size: int, largest: int, dtype: torch.dtype) -> QuantizedActivations:
    in_features = values.shape[-1]
    width = in_features if group_size == -1 else group_size
    groups = -(-in_features // width)
    padded = torch.nn.functional.pad(values, (0, groups * width - in_features))
    grouped = padded.unflatten(-1, (groups, width))
    scales, inverse, live = _scales(grouped, largest)
    # One bad group spoils the token.
    token_live = live.all(dim=-2, keepdim=True)
    scales = torch.where(token_live, scales, torch.nan)
    codes = (torch.where(token_live, grouped, 0.0) * inverse).round().clamp(-largest, largest)
    return QuantizedActivations(
        codes.flatten(-2)[..., :in_features].to(dtype), scales.squeeze(-1), group_size
    )
