"""Bit-plane quantiser: exact on its own grid, near the best scale, offsets that pay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.schemes import BipolarInt

from tests.formats.samples import planes


def squared_error(weight: torch.Tensor, scheme: BipolarInt) -> float:
    return float((weight - scheme.quantize(weight).dequantize()).square().sum())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group_size", [32, -1])
def test_a_weight_on_the_grid_is_kept(bits: int, group_size: int) -> None:
    weight = planes(9, 77, bits, group_size).dequantize()
    # The ladder starts at the largest magnitude, so both ends of the grid must occur in each group.
    for first in range(0, 77, 32):
        scale = planes(9, 77, bits, group_size).scales.float()[:, 0 if group_size == -1 else first // 32]
        weight[:, first] = scale * (2**bits - 1)
    scheme = BipolarInt(bits, group_size=group_size)
    torch.testing.assert_close(scheme.quantize(weight).dequantize(), weight, rtol=1e-3, atol=1e-3)


def test_one_bit_scale_is_the_mean_magnitude() -> None:
    weight = torch.randn(4, 64)
    packed = BipolarInt(1, group_size=32, scale_dtype="float32").quantize(weight)
    expected = weight.abs().unflatten(1, (2, 32)).mean(-1)
    torch.testing.assert_close(packed.scales, expected, rtol=1e-5, atol=0)


@given(bits=st.integers(1, 5), seed=st.integers(0, 99), heavy=st.booleans())
def test_near_the_best_of_a_thousand_scales(bits: int, seed: int, heavy: bool) -> None:
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(seed))
    if heavy:
        weight = weight**3
    largest = 2**bits - 1
    scales = torch.linspace(0.001, 1, 1000)[:, None] * weight.abs().max() / largest
    codes = (2 * (weight / scales / 2).floor() + 1).clamp(-largest, largest)
    best = float((weight - scales * codes).square().sum(1).min())
    assert squared_error(weight, BipolarInt(bits, group_size=-1)) <= 1.06 * best


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_offsets_pay_on_shifted_groups(bits: int) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    weight += torch.randn(16, 2, generator=torch.Generator().manual_seed(1)).repeat_interleave(64, 1)
    symmetric = squared_error(weight, BipolarInt(bits, group_size=64))
    assert squared_error(weight, BipolarInt(bits, group_size=64, asymmetric=True)) < 0.7 * symmetric


@pytest.mark.parametrize("value", [3.0, -0.25, 1e-3])
def test_a_constant_far_from_zero_fits_int16_offsets(value: float) -> None:
    weight = torch.full((2, 64), value)
    weight[1, ::2] += 1e-6 * value
    packed = BipolarInt(4, group_size=32, asymmetric=True).quantize(weight)
    packed.validate()
    torch.testing.assert_close(packed.dequantize(), weight, rtol=1e-3, atol=0)


def test_short_last_group_is_fitted_to_its_own_weights() -> None:
    weight = torch.randn(6, 40)
    weight[:, 32:] *= 1e-3
    packed = BipolarInt(4, group_size=32).quantize(weight)
    tail = BipolarInt(4, group_size=32).quantize(weight[:, 32:])
    assert torch.equal(packed.dequantize()[:, 32:], tail.dequantize())
