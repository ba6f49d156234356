"""Sign quantisers: rank-one scales, group means."""

from __future__ import annotations

import pytest
import torch
from lowbit.quantizers.signs import rank_one_magnitude
from lowbit.schemes import BinaryMoS, GroupedSigns, OneBit


@pytest.mark.parametrize("shape", [(40, 30), (7, 90), (90, 7), (1, 5), (5, 1)])
def test_rank_one_is_the_leading_singular_pair(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out, into = rank_one_magnitude(weight)
    assert float(out.min()) >= 0
    assert float(into.min()) >= 0
    left, values, right = torch.linalg.svd(weight.abs().double(), full_matrices=False)
    best = values[0] * left[:, :1] * right[:1]
    torch.testing.assert_close(out.double()[:, None] * into.double(), best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.norm(), into.norm())


def test_one_bit_recovers_a_one_bit_matrix() -> None:
    signs = (torch.randn(20, 24) > 0).float() * 2 - 1
    weight = signs * (torch.rand(20, 1) + 0.5) * (torch.rand(24) + 0.5)
    torch.testing.assert_close(OneBit().quantize(weight).dequantize(), weight, rtol=2e-3, atol=1e-4)


def test_zero_packs_as_plus_one() -> None:
    packed = GroupedSigns(group_size=32).quantize(torch.tensor([[0.0, -0.0, -1.0, 1.0]]))
    assert packed.weight.tolist() == [[0b1011]]


def test_grouped_scale_is_the_mean_magnitude() -> None:
    weight = torch.randn(3, 80)
    packed = GroupedSigns(group_size=32, scale_dtype="float32").quantize(weight)
    for group, part in enumerate(weight.split(32, dim=1)):
        torch.testing.assert_close(packed.scales[:, group], part.abs().mean(1))


def test_binary_mos_starts_as_one_bit() -> None:
    weight = torch.randn(20, 33)
    packed = BinaryMoS(experts=4).quantize(weight)
    assert packed.router.shape == packed.in_scales.shape == (4, 33)
    assert float(packed.router.abs().max()) <= 33**-0.5
    assert len(packed.router.unique(dim=0)) == 4
    x = torch.randn(5, 33)
    torch.testing.assert_close(packed.linear(x), OneBit().quantize(weight).linear(x))
