"""Signs without data: the sign of each weight, and scales that fit |W|.

    OneBit, BinaryMoS   |W| ~ u s v^T (best rank one)      out_scales = u sqrt(s), in_scales = v sqrt(s)
    grouped             scale = mean |w| of the group      minimises sum (w - scale * sign)^2

|W| has no negative entry, so its leading singular vectors have none either (Perron-Frobenius); power
iteration from a positive start finds them. Rank-one start: OneBit, arXiv 2402.11295 and BinaryMoS, arXiv
2406.12311.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.formats.base import SCALE_DTYPES, check_group_size
from lowbit.formats.bits import pack_bits
from lowbit.formats.rounding import is_plus
from lowbit.formats.signs import Signs
from lowbit.quantizers.common import check_weight, one_thread, row_chunks, split_groups, to_stored

_POWER_ITERATIONS = 100
_POWER_TOLERANCE = 1e-6
_ROUTER_SEED = 0


@one_thread()
def quantize_one_bit(weight: Tensor, scale_dtype: str, layer: str | None) -> Signs:
    """Signs with one scale per input and one per output; see schemes.OneBit."""
    weight = check_weight(weight, layer)
    out_scales, in_scales = (to_stored(s, scale_dtype, layer) for s in rank_one_magnitude(weight))
    return Signs(
        _pack_signs(weight),
        weight.shape[1],
        in_scales=in_scales[None].contiguous(),
        out_scales=out_scales[None].contiguous(),
    )


def quantize_binary_mos(weight: Tensor, experts: int, scale_dtype: str, layer: str | None) -> Signs:
    """OneBit's scales in every expert, and a random router; see schemes.BinaryMoS.

    This is the paper's starting point for training. Without data nothing tells the experts apart, so the
    packed layer computes the same as OneBit until it is trained. The router is torch's initialisation of a
    linear layer, from a fixed seed.
    """
    start = quantize_one_bit(weight, scale_dtype, layer)
    assert start.in_scales is not None
    assert start.out_scales is not None
    bound = start.in_features**-0.5
    generator = torch.Generator().manual_seed(_ROUTER_SEED)
    router = (2 * torch.rand(experts, start.in_features, generator=generator) - 1) * bound
    return Signs(
        start.weight,
        start.in_features,
        router=router.to(weight.device, SCALE_DTYPES[scale_dtype]),
        in_scales=start.in_scales.repeat(experts, 1),
        out_scales=start.out_scales.repeat(experts, 1),
    )


@one_thread()
def quantize_grouped_signs(weight: Tensor, group_size: int, scale_dtype: str, layer: str | None) -> Signs:
    """Signs with one scale per group of inputs; see schemes.GroupedSigns."""
    check_group_size(group_size, layer=layer)
    weight = check_weight(weight, layer)
    scales = torch.cat(
        [
            torch.cat([part.abs().mean(-1) for part in split_groups(rows, group_size)], dim=1)
            for _, rows in row_chunks(weight)
        ]
    )
    return Signs(_pack_signs(weight), weight.shape[1], to_stored(scales, scale_dtype, layer), group_size)


def rank_one_magnitude(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative (out [N], in [K]) equally long, their outer product the best rank-one fit of |weight|."""
    right = torch.ones(weight.shape[1], device=weight.device) / weight.shape[1] ** 0.5
    strength = torch.zeros((), device=weight.device)
    left = torch.zeros(weight.shape[0], device=weight.device)
    for _ in range(_POWER_ITERATIONS):
        product = torch.zeros_like(right)
        for rows, values in row_chunks(weight):
            magnitudes = values.abs_()
            left[rows] = magnitudes @ right
            product += left[rows] @ magnitudes
        # `right` has unit length, so |W|^T |W| right is sigma^2 long once converged.
        previous, strength = strength, product.norm().sqrt()
        if strength == 0:
            break
        right = product / product.norm()
        if (strength - previous).abs() <= _POWER_TOLERANCE * strength:
            break
    left_length = left.norm()
    if left_length == 0:
        return left, torch.zeros_like(right)
    root = left_length.sqrt()
    return left / root, right * root


def _pack_signs(weight: Tensor) -> Tensor:
    return torch.cat([pack_bits(is_plus(rows)) for _, rows in row_chunks(weight)])
