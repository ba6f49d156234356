"""The activation quantisers against their formulas, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.errors import DtypeError, ValueRangeError
from lowbit.formats import prepare_activations, quantize_activations, quantize_bipolar

f32 = np.float32


def half_even(value: np.float32) -> int:
    return int(np.rint(value))


@given(k=st.integers(1, 300), seed=st.integers(0, 99), exponent=st.integers(-20, 20))
def test_fast_follows_its_formula(k: int, seed: int, exponent: int) -> None:
    x = torch.randn(2, k, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    found = quantize_activations(x, "fast")
    assert found.codes.dtype == torch.int8
    assert found.scales.shape == (2, math.ceil(k / 128))
    for row, codes, scales in zip(x.numpy(), found.codes, found.scales, strict=True):
        for group, scale in enumerate(scales):
            part = row[128 * group : 128 * group + 128]
            amax = np.abs(part).max()
            assert f32(scale) == f32(amax / f32(127))
            inverse = f32(127) / amax
            expected = [half_even(f32(value * inverse)) for value in part]
            assert codes[128 * group : 128 * group + 128].tolist() == expected


@given(k=st.integers(1, 200), seed=st.integers(0, 99))
def test_high_follows_its_formula(k: int, seed: int) -> None:
    x = torch.randn(k, generator=torch.Generator().manual_seed(seed))
    found = quantize_activations(x, "high")
    amax = np.abs(x.numpy()).max()
    inverse = f32(32639) / amax
    assert found.codes.tolist() == [min(max(half_even(f32(v * inverse)), -32639), 32639) for v in x.numpy()]
    assert f32(found.scales[0]) == f32(amax / f32(32639))
    # Splits into two int8 columns.
    high = (found.codes.int() + 128).div(256, rounding_mode="floor")
    assert -128 <= int(high.min()) <= int(high.max()) <= 127
    low = found.codes.int() - 256 * high
    assert -128 <= int(low.min()) <= int(low.max()) <= 127


@given(bits=st.integers(1, 8), k=st.integers(1, 100), seed=st.integers(0, 99))
def test_bipolar_gives_the_nearest_odd_value(bits: int, k: int, seed: int) -> None:
    x = torch.randn(k, generator=torch.Generator().manual_seed(seed))
    found = quantize_bipolar(x, bits)
    largest = 2**bits - 1
    assert bool((found.codes % 2 != 0).all())
    assert int(found.codes.abs().max()) == largest
    steps = x.double() * largest / x.abs().max().double()
    assert float((steps - found.codes).abs().max()) <= 1 + 1e-4
    assert f32(found.scales[0]) == f32(f32(x.abs().max()) / f32(largest))


def test_bipolar_zero_rounds_up() -> None:
    assert quantize_bipolar(torch.tensor([0.0, 1.0, -1.0]), 1).codes.tolist() == [1, 1, -1]


@pytest.mark.parametrize("x", [torch.zeros(2, 5), torch.full((2, 5), 1e-40)])
def test_nothing_left_gives_scale_zero(x: torch.Tensor) -> None:
    for found in (quantize_activations(x, "fast"), quantize_activations(x, "high"), quantize_bipolar(x, 4)):
        assert not found.codes.any()
        assert not found.scales.any()
        assert torch.equal(found.dequantize(), torch.zeros(2, 5))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_spoils_its_whole_token(bad: float) -> None:
    x = torch.randn(3, 200)
    x[1, 150] = bad
    for found in (quantize_activations(x, "fast"), quantize_activations(x, "high"), quantize_bipolar(x, 3)):
        assert not found.codes[1].any()
        assert bool(found.scales[1].isnan().all())
        assert bool(found.dequantize()[1].isnan().all())
        assert bool(found.dequantize()[[0, 2]].isfinite().all())
    assert bool(prepare_activations(x, "exact")[1].isnan().all())


@pytest.mark.parametrize("shape", [(0, 7), (2, 0, 7), (2, 3, 130)])
def test_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.bfloat16)
    assert quantize_activations(x).dequantize().shape == shape
    assert quantize_bipolar(x, 8).dequantize().shape == shape


@pytest.mark.parametrize(("precision", "bits"), [("fast", 0), ("high", 0), ("fast", 2)])
def test_gradient_goes_straight_through(precision: str, bits: int) -> None:
    x = torch.randn(3, 9, requires_grad=True)
    weights = torch.randn(3, 9)
    (prepare_activations(x, precision, bits) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_refusals() -> None:
    with pytest.raises(ValueRangeError, match="found 'exact'; allowed fast, high"):
        quantize_activations(torch.ones(3), "exact")
    with pytest.raises(ValueRangeError, match=r"unsupported activation_bits; found 9; allowed 1\.\.8"):
        quantize_bipolar(torch.ones(3), 9)
    with pytest.raises(ValueRangeError, match="unknown precision; found 'low'; allowed fast, high, exact"):
        prepare_activations(torch.ones(3), "low")
    with pytest.raises(DtypeError, match=r"found torch\.int64; allowed float16"):
        quantize_activations(torch.ones(3, dtype=torch.int64))
