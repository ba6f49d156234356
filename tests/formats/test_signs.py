"""BinaryMoS, OneBit and grouped signs against their formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lowbit.formats import Signs, unpack_bits

from tests.formats.samples import K, N, binary_mos, floats, grouped_signs, one_bit, random_signs


def signs_of(packed: Signs) -> torch.Tensor:
    return unpack_bits(packed.weight, packed.in_features).double() * 2 - 1


@pytest.mark.parametrize("experts", [1, 2, 3, 8])
def test_binary_mos_forward(experts: int) -> None:
    packed = binary_mos(experts=experts)
    if experts == 1:
        packed = dataclasses.replace(packed, router=None)
    packed.validate()
    x = torch.randn(4, K, dtype=torch.float64)
    gates = torch.ones(4, 1, dtype=torch.float64)
    if packed.router is not None:
        gates = torch.softmax(x @ packed.router.double().T, -1)
    scaled = x * (gates @ packed.in_scales.double())
    expected = (scaled @ signs_of(packed).T) * (gates @ packed.out_scales.double())
    torch.testing.assert_close(packed.linear(x), expected)


def test_equal_experts_make_the_router_irrelevant() -> None:
    single = one_bit()
    repeated = dataclasses.replace(
        single,
        router=floats(4, K, seed=9),
        in_scales=single.in_scales.repeat(4, 1),
        out_scales=single.out_scales.repeat(4, 1),
    )
    x = torch.randn(5, K)
    torch.testing.assert_close(repeated.linear(x), single.linear(x))


def test_dequantize_takes_even_gates() -> None:
    packed = binary_mos()
    expected = packed.in_scales.double().mean(0) * signs_of(packed)
    expected = expected * packed.out_scales.double().mean(0)[:, None]
    torch.testing.assert_close(packed.dequantize().double(), expected)


@pytest.mark.parametrize(("group_size", "groups"), [(32, 3), (64, 2), (128, 1), (-1, 1)])
def test_grouped_signs(group_size: int, groups: int) -> None:
    packed = grouped_signs(group_size=group_size)
    assert packed.scales.shape == (N, groups)
    width = K if group_size == -1 else group_size
    for k in range(K):
        expected = signs_of(packed)[:, k] * packed.scales[:, k // width].double()
        assert torch.equal(packed.dequantize()[:, k].double(), expected)


def test_quantised_activations_are_the_scaled_ones() -> None:
    """An input scale that undoes an outlier must keep the other inputs' precision."""
    scales = torch.ones(1, 128)
    scales[0, 0] = 1e-3
    packed = Signs(random_signs(8, 128), 128, in_scales=scales, out_scales=torch.ones(1, 8))
    x = torch.randn(4, 128)
    x[:, 0] = 1000.0
    error = packed.linear(x, precision="fast") - packed.linear(x.double())
    assert float(error.abs().max()) < 0.5


def test_bits_per_weight() -> None:
    n, k, experts = 64, 96, 4
    packed = binary_mos(n, k, experts)
    assert packed.bits_per_weight == pytest.approx(1 + 16 * experts * (n + 2 * k) / (n * k))
    assert one_bit(n, k).bits_per_weight == pytest.approx(1 + 16 * (n + k) / (n * k))
    assert grouped_signs(n, k, 32).bits_per_weight == pytest.approx(1 + 16 / 32)
    # Odd widths pay for their pad bits: 77 inputs take 10 bytes.
    assert Signs(random_signs(N, K), K).bits_per_weight == pytest.approx(80 / 77)
