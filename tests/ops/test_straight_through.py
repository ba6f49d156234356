"""Straight-through operators: values of the formats bit for bit, gradients of the documented formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lowbit.errors import ShapeError, ValueRangeError
from lowbit.formats import CodebookScalar, Planes, Signs, pack_bits, pack_codes, quantize_bipolar
from lowbit.ops import straight_through as ste
from torch import Tensor

N, K = 5, 70
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradient that is given to y, and those of the inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    g = normal(*y.shape, seed=9, dtype=y.dtype)
    y.backward(g)
    return g, [leaf.grad for leaf in leaves]  # type: ignore[misc]


def edges(weight: Tensor, *values: float) -> Tensor:
    """The weight with these values at its start."""
    weight = weight.clone()
    weight.view(-1)[: len(values)] = torch.tensor(values, dtype=weight.dtype)
    return weight


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_are_those_of_the_format(dtype: torch.dtype) -> None:
    weight = edges(normal(N, K, dtype=dtype), 0.0, -0.0, 1e-7, -1e-7)
    assert torch.equal(ste.sign(weight), Signs(pack_bits(weight >= 0), K).dequantize())


@pytest.mark.parametrize(
    ("gradient", "slope"),
    [
        ("clipped", lambda w: float(-1 <= w <= 1)),
        ("identity", lambda w: 1.0),
        (
            "tanh",
            lambda w: 1.001 - (1 - 2 / (math.exp(2 * w) + 1)) ** 2,
        ),
    ],
)
def test_gradient_of_signs(gradient: str, slope: Callable[[float], float]) -> None:
    weight = edges(normal(N, K, dtype=torch.float64), 1.0, -1.0, 1.001, -1.001, 0.0)
    g, (dw,) = gradients(lambda w: ste.sign(w, gradient), weight)
    expected = torch.tensor([slope(w) for w in weight.view(-1).tolist()], dtype=torch.float64).view(N, K)
    torch.testing.assert_close(dw, g * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("group_size", "scale_dtype"), [(-1, "float16"), (32, "bfloat16"), (64, "float32")])
def test_bipolar_is_the_weight_of_planes(bits: int, group_size: int, scale_dtype: str) -> None:
    """Every code of every value is written down by hand here: v = sum (2 b_i - 1) 2^i."""
    weight = edges(normal(N, K, seed=bits), 0.0)
    groups = 1 if group_size == -1 else -(-K // group_size)
    scales = edges(normal(N, groups, seed=1).abs() / 2**bits, 0.0)
    value = ste.bipolar(weight, scales, bits, group_size=group_size, scale_dtype=scale_dtype)
    kept = scales.to(getattr(torch, scale_dtype))
    spread = kept.float()[:, torch.arange(K) // (K if group_size == -1 else group_size)]
    levels = torch.tensor([sum((2 * (u >> i & 1) - 1) * 2**i for i in range(bits)) for u in range(2**bits)])
    codes = (weight[..., None] - spread[..., None] * levels).abs().argmin(-1)
    assert torch.equal(value, Planes(pack_codes(codes, bits), kept, K, group_size).dequantize())


def test_gradient_of_bipolar() -> None:
    """One weight after the other, in fp64."""
    bits, group_size = 3, 32
    weight = normal(N, K, dtype=torch.float64)
    scales = normal(N, 3, seed=1, dtype=torch.float64).abs().half().double() / 4 + 0.0625
    weight[0, :3] = torch.tensor([7.0, -7.0, 7.01]) * scales[0, 0]  # the outermost level, and beyond it
    g, (dw, ds) = gradients(
        lambda w, s: ste.bipolar(w, s, bits, group_size=group_size, scale_dtype="float32"), weight, scales
    )
    stored = scales.float().double()
    expected_dw, expected_ds = torch.zeros_like(weight), torch.zeros_like(scales)
    clipped = 0
    for n in range(N):
        for k in range(K):
            t = float(weight[n, k] / stored[n, k // group_size])
            v = min(range(-7, 8, 2), key=lambda level: abs(t - level))
            inside = abs(t) <= 7
            clipped += not inside
            expected_dw[n, k] = g[n, k] if inside else 0
            expected_ds[n, k // group_size] += g[n, k] * (v - t if inside else v)
    assert 10 < clipped < N * K - 10
    torch.testing.assert_close(dw, expected_dw, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ds, expected_ds, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "float32"])
def test_scalar_codebook_is_the_weight_of_the_format(bits: int, scale_dtype: str) -> None:
    weight, tables = normal(N, K), normal(N, 2**bits, seed=1)  # in no order
    kept = tables.to(getattr(torch, scale_dtype)).sort(dim=1).values
    codes = (weight[..., None] - kept.float()[:, None]).abs().argmin(-1)
    packed = CodebookScalar(pack_codes(codes, bits), kept, K)
    assert torch.equal(ste.scalar_codebook(weight, tables, scale_dtype=scale_dtype), packed.dequantize())


def test_gradient_of_a_scalar_codebook() -> None:
    weight, tables = normal(N, K, dtype=torch.float64), normal(N, 4, seed=1, dtype=torch.float64)
    g, (dw, dt) = gradients(lambda w, t: ste.scalar_codebook(w, t, scale_dtype="float32"), weight, tables)
    expected = torch.zeros_like(tables)
    for n in range(N):
        for k in range(K):
            nearest = min(range(4), key=lambda entry: abs(weight[n, k] - tables[n, entry].float()))
            expected[n, nearest] += g[n, k]
    assert torch.equal(dw, g)
    torch.testing.assert_close(dt, expected, rtol=1e-12, atol=1e-12)


def test_elastic_values_are_what_planes_quantise_to() -> None:
    x, scale, shift = normal(3, K), torch.tensor(0.3), normal(K, seed=1) / 4
    value = ste.elastic(x, scale, shift)
    assert torch.equal(value, torch.where(x - shift >= 0, 0.3, -0.3).float())
    assert torch.equal(quantize_bipolar(value, 1).dequantize(), value)
    unsigned = ste.elastic(x, scale, shift, unsigned=True)
    assert torch.equal(unsigned, torch.where((x - shift) / scale > 0.5, scale, 0.0))
    assert torch.equal(quantize_bipolar(unsigned - scale / 2, 1).dequantize() + scale / 2, unsigned)


@pytest.mark.parametrize("unsigned", [False, True])
def test_gradient_of_elastic(unsigned: bool) -> None:
    a, rows = 0.5, 7
    shift = normal(K, seed=1, dtype=torch.float64) / 4
    x = normal(rows, K, dtype=torch.float64)
    shift[:5] = 0.25
    x[0, :5] = torch.tensor([0.25, 0.75, -0.25, 0.2499, 0.7501])  # on the borders, and beside them
    scale = torch.tensor(a, dtype=torch.float64)
    g, (dx, da, db) = gradients(lambda x, a, b: ste.elastic(x, a, b, unsigned=unsigned), x, scale, shift)
    expected_dx, expected_da = torch.zeros_like(x), 0.0
    for m in range(rows):
        for k in range(K):
            own, b, up = float(x[m, k]), float(shift[k]), float(g[m, k])
            if unsigned:
                inside = b <= own < a + b
                t = (own - b) / a
                expected_da += up * ((float(t > 0.5) - t) if inside else float(own >= a + b))
            else:
                inside = abs(own - b) <= a
                expected_da += up * (1 if own - b >= 0 else -1)
            expected_dx[m, k] = up * inside
    torch.testing.assert_close(dx, expected_dx, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(db, -expected_dx.sum(0), rtol=1e-12, atol=1e-12)
    assert da.item() == pytest.approx(expected_da, rel=1e-12)


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_linear_is_the_packed_layer(experts: int, dtype: torch.dtype) -> None:
    """Value and input gradient are those of the format at precision "exact"."""
    x, weight = normal(2, 4, K, seed=1, dtype=dtype), edges(normal(N, K), 0.0)
    floats = {"in_scales": normal(experts, K, seed=2), "out_scales": normal(experts, N, seed=3)}
    if experts > 1:
        floats["router"] = normal(experts, K, seed=4) / 4
    bias = normal(N, seed=5, dtype=dtype)
    packed = Signs(pack_bits(weight >= 0), K, **{name: own.half() for name, own in floats.items()})
    x[1, 2, 3] = torch.nan
    y = ste.signs_linear(x, weight, **floats, bias=bias)
    expected = packed.linear(x, bias)
    assert y.dtype == dtype
    assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7))
    assert y[1, 2].isnan().all()
    assert y.isfinite().sum() == 7 * N
    x = x.nan_to_num(0).float()
    _, (own,) = gradients(lambda x: ste.signs_linear(x, weight, **floats), x)
    _, (other,) = gradients(packed.linear, x)
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_gradient_of_signs_linear() -> None:
    """By the chain rule, written out: see `_gradient` of lowbit.ops.signs for the names."""
    experts, tokens = 3, 4
    x = normal(tokens, K, seed=1, dtype=torch.float64)
    weight = normal(N, K, dtype=torch.float64)
    router, s_in = (normal(experts, K, seed=seed).half().double() / 4 for seed in (2, 3))
    s_out = normal(experts, N, seed=4).half().double()
    dy, (dx, dw, d_in, d_out, d_router) = gradients(ste.signs_linear, x, weight, s_in, s_out, router)
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    exponentials = (x @ router.T).exp()
    gates = exponentials / exponentials.sum(1, keepdim=True)
    z = x * (gates @ s_in)
    u = z @ signs.T
    du = dy * (gates @ s_out)
    dz = du @ signs
    dgates = (dy * u) @ s_out.T + (dz * x) @ s_in.T
    dlogits = gates * (dgates - (gates * dgates).sum(1, keepdim=True))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(dw, (du.T @ z) * (weight.abs() <= 1), **close)
    torch.testing.assert_close(d_in, gates.T @ (dz * x), **close)
    torch.testing.assert_close(d_out, gates.T @ (dy * u), **close)
    torch.testing.assert_close(d_router, dlogits.T @ x, **close)
    torch.testing.assert_close(dx, dz * (gates @ s_in) + dlogits @ router, **close)


def test_stored_keeps_gradients_that_its_dtype_would_lose() -> None:
    scales = torch.tensor([1 / 3], requires_grad=True)
    ste.stored(scales).backward(torch.tensor([1e-12]))
    assert ste.stored(scales).item() == torch.tensor(1 / 3).half().item()
    assert scales.grad.item() == pytest.approx(1e-12)  # type: ignore[union-attr]


def test_compiled_as_one_graph() -> None:
    def everything(x: Tensor, weight: Tensor, scales: Tensor, tables: Tensor, one: Tensor) -> Tensor:
        binary = ste.elastic(x, one, 0 * one) + ste.elastic(x, one, 0 * one, unsigned=True)
        weights = ste.bipolar(weight, scales, 3, group_size=32) + ste.scalar_codebook(weight, tables)
        mixed = ste.signs_linear(x, weight, scales.T.repeat(1, 24)[:, :K], weight[:, :3].T, weight[:3])
        return binary @ weights.T + mixed

    inputs = (normal(4, K), normal(N, K, seed=1), normal(N, 3, seed=2), normal(N, 4, seed=3), torch.ones(()))
    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    _, expected = gradients(everything, *inputs)
    _, found = gradients(compiled, *inputs)
    torch.testing.assert_close(compiled(*inputs), everything(*inputs))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda w: ste.sign(w, "soft"), ValueRangeError),
        (lambda w: ste.bipolar(w, w[:, :1], 9), ValueRangeError),
        (lambda w: ste.bipolar(w, w[:, :1], 2, group_size=33), ValueRangeError),
        (lambda w: ste.bipolar(w, w[:, :2], 2), ShapeError),
        (lambda w: ste.bipolar(w[0], w[:, :1], 2), ShapeError),
        (lambda w: ste.bipolar(w, w[:, :1], 2, scale_dtype="int8"), ValueRangeError),
        (lambda w: ste.scalar_codebook(w, w[:, :3]), ShapeError),
        (lambda w: ste.scalar_codebook(w, w[:2, :4]), ShapeError),
        (lambda w: ste.signs_linear(w, w, w[:2], w[:2, :N]), ShapeError),
        (lambda w: ste.signs_linear(w, w, w[:2], w[:2, :N], w[:1]), ShapeError),
        (lambda w: ste.signs_linear(w[:, 1:], w, w[:1], w[:1, :N]), ShapeError),
    ],
)
def test_wrong_arguments(call: Callable[[Tensor], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(normal(N, K))


def test_autocast_does_not_reach_the_router() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, router, in_scales, out_scales = (
        torch.randn(*shape, generator=generator) for shape in ((5, 64), (32, 64), (4, 64), (4, 64), (4, 32))
    )
    mix = {"router": router, "in_scales": in_scales, "out_scales": out_scales}
    expected = ste.signs_linear(x, weight, **mix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ste.signs_linear(x, weight, **mix), expected)
