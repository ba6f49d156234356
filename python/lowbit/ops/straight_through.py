"""Quantisers to train through: the forward value is what the packed layer holds, the gradient a chosen one.

    sign              signs of latent weights                          BinaryNet, BinaryMoS, OneBit, BiT
    bipolar           odd codes of 1 to 8 bits with learned scales     planes; the gradient of LSQ
    scalar_codebook   a learned table per row                          codebook, scalar
    elastic           activations of 1 bit, {-1, +1} or {0, 1}         BiT
    signs_linear      the layer of BinaryMoS or OneBit                 signs
    stored            scales as a checkpoint rounds them

Plain torch, for every device, differentiable once, legal under torch.compile(fullgraph=True). They compute in
float32, or in float64 for float64 weights. In float32 the values are those of the packed weight bit for bit:
`lowbit.quantizers.trained` packs what was trained by the same rule and with the same rounded scales.

Nothing is checked that would wait for a GPU: scales that reach NaN or infinity are refused when packed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.errors import ShapeError, ValueRangeError
from lowbit.formats import prepare_activations, rounding
from lowbit.formats.base import SCALE_DTYPES, check_group_size, group_count, spread_groups
from lowbit.formats.bits import MAX_BITS
from lowbit.formats.rounding import bipolar_values, bits_of_tables, in_scales_of, is_plus, nearest_entries

GRADIENTS = ("clipped", "identity", "tanh")


def sign(weight: Tensor, gradient: str = "clipped") -> Tensor:
    """+1 where weight >= 0, else -1; same shape.

    Args:
        weight: float, any shape.
        gradient: what becomes of a gradient g:
            "clipped"   g where |w| <= 1, else 0: BinaryNet, arXiv 1602.02830; BinaryMoS, arXiv 2406.12311
                        (whose code leaves out |w| = 1 itself)
            "identity"  g: weights of BiT, arXiv 2205.13016
            "tanh"      g (1.001 - tanh(w)^2): OneBit's code, arXiv 2402.11295

    Raises:
        ValueRangeError: another gradient.
    """
    if gradient not in GRADIENTS:
        raise ValueRangeError("unknown gradient", found=repr(gradient), allowed=", ".join(GRADIENTS))
    signs: Tensor = _Sign.apply(rounding.wide(weight), gradient)
    return signs


def bipolar(
    weight: Tensor, scales: Tensor, bits: int, *, group_size: int = -1, scale_dtype: str = "float16"
) -> Tensor:
    """scales * v, with v the odd value of `bits` bits that is nearest to weight / scales; [N, K].

    These are the weights of the format planes (v: formats/planes.py). Gradients as of LSQ (arXiv 1902.08153)
    with the grid of odd values: with t = w / s and L = 2^bits - 1,

        dw  = g where |t| <= L, else 0
        ds  = sum over the group of g * (v - t where |t| <= L, else v)

    LSQ also multiplies ds by 1 / sqrt(L * inputs of the group), a learning rate, left to the optimiser here.

    Args:
        weight: float [N, K].
        scales: float [N, ceil(K / group_size)].
        bits: 1..8.
        group_size: inputs per scale, -1 (whole row) or a positive multiple of 32.
        scale_dtype: dtype that `scales` will be stored in; they are rounded to it first.

    Raises:
        ShapeError, ValueRangeError: an argument is not as above.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueRangeError("unsupported bits", found=bits, allowed=f"1..{MAX_BITS}")
    check_group_size(group_size)
    out_features, in_features = _matrix(weight)
    _check_shape("scales", scales, (out_features, group_count(in_features, group_size)))
    wide = rounding.wide(weight)
    spread = spread_groups(stored(scales, scale_dtype).to(wide.dtype), in_features, group_size)
    values: Tensor = _Bipolar.apply(wide, spread, bits)
    return values


def scalar_codebook(weight: Tensor, tables: Tensor, *, scale_dtype: str = "float16") -> Tensor:
    """The entry of its row's table that is nearest to each weight; [N, K].

    These are the weights of the format codebook, scalar. The gradient passes to the weights unchanged; an
    entry gets the sum of the gradients of its weights, as in Deep Compression (arXiv 1510.00149).

    Args:
        weight: float [N, K].
        tables: float [N, 2^bits] with bits 1..8, in any order.
        scale_dtype: dtype that `tables` will be stored in; they are rounded to it first.

    Raises:
        ShapeError, ValueRangeError: an argument is not as above.
    """
    bits_of_tables(tables, _matrix(weight)[0])
    wide = rounding.wide(weight)
    values: Tensor = _Nearest.apply(wide, stored(tables, scale_dtype).to(wide.dtype))
    return values


def elastic(x: Tensor, scale: Tensor, shift: Tensor, *, unsigned: bool = False) -> Tensor:
    """Activations of one bit with a learned scale a > 0 and shift b: BiT's elastic binarisation.

        {-1, +1}    a * sign(x - b)                        sign(0) = +1
        {0, 1}      a * round(clip((x - b) / a, 0, 1))     for what is never negative: behind ReLU, softmax

    Gradients (arXiv 2205.13016, with t = (x - b) / a), each summed to the shape of its argument:

        {-1, +1}    dx = g where |x - b| <= a, else 0      db = -dx      da = g sign(x - b)
        {0, 1}      dx = g where b <= x < a + b, else 0    db = -dx      da = g (round(t) - t) there, g above

    BiT starts with b = 0 and a = 2 mean|x|, or 4 mean|x| of {0, 1}, keeps a >= 1e-5 and multiplies da by
    1 / sqrt(number of values), which is a learning rate and left to the optimiser.

    A packed layer of the family planes with activation_bits=1 takes {-1, +1} as it is, if scale does not vary
    within a token: its quantiser returns these values exactly. {0, 1} has no code of its own, but
    x = a/2 (+-1) + a/2: give the layer x - a/2, and a bias that is larger by a/2 times the row sums of the
    weight.

    Args:
        x: float, any shape.
        scale, shift: float, broadcast against x.
    """
    wide = rounding.wide(x)
    values: Tensor = _Elastic.apply(wide, scale.to(wide.dtype), shift.to(wide.dtype), unsigned)
    return values


def signs_linear(
    x: Tensor,
    weight: Tensor,
    in_scales: Tensor,
    out_scales: Tensor,
    router: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    gradient: str = "clipped",
    scale_dtype: str = "float16",
) -> Tensor:
    """y = (((x * (g in_scales)) sign(weight)^T) * (g out_scales)) + bias, gates g = softmax(x router^T).

    The layer of BinaryMoS (arXiv 2406.12311), and without a router that of OneBit (arXiv 2402.11295, less the
    LayerNorm that it puts behind). Its value is that of the packed layer at precision "exact".

    Args:
        x: float [..., K]. A token with a non-finite value gives a row of NaN.
        weight: latent weights, float [N, K].
        in_scales, out_scales, router: float [E, K], [E, N], [E, K]; without a router E = 1.
        bias: float [N].
        gradient: of the signs, see :func:`sign`.
        scale_dtype: dtype that scales and router will be stored in; they are rounded to it first.

    Returns:
        [..., N] in x's dtype.

    Raises:
        ShapeError, ValueRangeError: an argument is not as above.
    """
    out_features, in_features = _matrix(weight)
    experts = out_scales.shape[0] if out_scales.dim() else 0
    if experts < 1 or (router is None and experts > 1):
        raise ShapeError("experts need a router", found=f"{experts} without", allowed="a router for E >= 2")
    _check_shape("x", x, (*x.shape[:-1], in_features))
    _check_shape("in_scales", in_scales, (experts, in_features))
    _check_shape("out_scales", out_scales, (experts, out_features))
    if router is not None:
        _check_shape("router", router, (experts, in_features))
    with torch.autocast(x.device.type, enabled=False):  # router and scales are fp32 whatever surrounds them
        return _signs_linear(x, weight, router, in_scales, out_scales, bias, scale_dtype, gradient)


def _signs_linear(
    x: Tensor,
    weight: Tensor,
    router: Tensor | None,
    in_scales: Tensor,
    out_scales: Tensor,
    bias: Tensor | None,
    scale_dtype: str,
    gradient: str,
) -> Tensor:
    values = prepare_activations(x, "exact")

    def rounded(tensor: Tensor) -> Tensor:
        return stored(tensor, scale_dtype).to(values.dtype)

    if router is None:
        gates = values.new_ones(*values.shape[:-1], 1)
    else:
        gates = torch.softmax(values @ rounded(router).T, dim=-1)
    scaled = values * (gates @ rounded(in_scales))
    product = torch.nn.functional.linear(scaled, sign(weight, gradient).to(values.dtype))
    y = product * (gates @ rounded(out_scales))
    return (y if bias is None else y + bias.to(y.dtype)).to(x.dtype)


def stored(values: Tensor, scale_dtype: str = "float16") -> Tensor:
    """Values rounded to 'float16', 'bfloat16' or 'float32', as wide as before; the gradient is unchanged.

    Raises:
        ValueRangeError: another dtype.
    """
    if scale_dtype not in SCALE_DTYPES:
        raise ValueRangeError(
            "unsupported scale_dtype", found=repr(scale_dtype), allowed=", ".join(SCALE_DTYPES)
        )
    rounded: Tensor = _Stored.apply(rounding.wide(values), SCALE_DTYPES[scale_dtype])
    return rounded


def _matrix(weight: Tensor) -> tuple[int, int]:
    if weight.dim() != 2:
        raise ShapeError("wrong shape of the weight", found=list(weight.shape), allowed="[N, K]")
    return weight.shape[0], weight.shape[1]


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(f"wrong shape of '{name}'", found=list(tensor.shape), allowed=list(shape))


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gradient: str) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.gradient = gradient
        return 2 * is_plus(weight).to(weight.dtype) - 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        if ctx.gradient == "clipped":
            return torch.where(weight.abs() <= 1, grads[0], 0.0), None
        return grads[0] if ctx.gradient == "identity" else grads[0] * (1.001 - weight.tanh().square()), None


class _Bipolar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scales: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(weight, scales)
        ctx.bits = bits
        return bipolar_values(weight, scales, bits) * scales

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, scales = ctx.saved_tensors
        steps = in_scales_of(weight, scales)
        inside = steps.abs() <= 2**ctx.bits - 1
        values = bipolar_values(weight, scales, ctx.bits)
        slope = torch.where(inside, values - steps, values)
        return torch.where(inside, grads[0], 0.0), (grads[0] * slope).sum_to_size(scales.shape), None


class _Nearest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tables: Tensor) -> Tensor:
        ascending, order = tables.sort(dim=1)
        entries = order.gather(1, nearest_entries(weight, ascending).long())
        ctx.save_for_backward(entries, tables)
        return tables.gather(1, entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        entries, tables = ctx.saved_tensors
        return grads[0], torch.zeros_like(tables).scatter_add(1, entries, grads[0])


class _Elastic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, unsigned: bool) -> Tensor:
        ctx.save_for_backward(x, scale, shift)
        ctx.unsigned = unsigned
        centred = x - shift
        if unsigned:
            return scale * (centred / scale).clamp(0, 1).round()
        return scale * (2 * is_plus(centred).to(x.dtype) - 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, shift = ctx.saved_tensors
        centred = x - shift
        if ctx.unsigned:
            steps = centred / scale
            inside = (steps >= 0) & (steps < 1)
            slope = torch.where(inside, steps.round() - steps, (steps >= 1).to(x.dtype))
        else:
            inside = centred.abs() <= scale
            slope = 2 * is_plus(centred).to(x.dtype) - 1
        dx = torch.where(inside, grads[0], 0.0)
        return (
            dx.sum_to_size(x.shape),
            (grads[0] * slope).sum_to_size(scale.shape),
            -dx.sum_to_size(shift.shape),
            None,
        )


class _Stored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.to(dtype).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
