"""What a user of packed weights does without kernels for them: unpack and call torch, in bfloat16 or fp32."""

from __future__ import annotations

from functools import partial

import ours
import torch
from lowbit.formats import PackedWeight, Planes, Signs
from timing import Candidate
from torch import Tensor
from torch.nn import functional as F

from rivals import Problem

# From this many tokens on unpacking is a small part of the product, and so a rival.
MANY_TOKENS = 128

# Row b holds the eight values +1 / -1 of byte b: one look-up unpacks eight weights.
_SIGNS_OF_BYTE = {
    dtype: (((torch.arange(256)[:, None] >> torch.arange(8)) & 1) * 2 - 1).to(dtype)
    for dtype in (torch.bfloat16, torch.float32)
}


def name(kernel: str, dtype: torch.dtype = torch.bfloat16) -> str:
    return f"{kernel}, unpacked" if dtype == torch.bfloat16 else f"{kernel}, dequantized"


def candidates(problem: Problem) -> list[Candidate]:
    """Two for each family, for many tokens."""
    if problem.tokens < MANY_TOKENS:
        return []
    return [
        _candidate(problem, entry, dtype)
        for entry in ours.FAMILIES
        for dtype in (torch.bfloat16, torch.float32)
    ]


def _candidate(problem: Problem, entry: ours.Entry, dtype: torch.dtype) -> Candidate:
    packed = entry.make(problem.shape.out_features, problem.shape.in_features)
    x = problem.x.to(dtype)
    copies = [packed, *(ours.clone(packed) for _ in range(problem.copies(packed.nbytes) - 1))]
    return Candidate(
        name(entry.name, dtype),
        [partial(unpack_and_multiply, copy, x) for copy in copies],
        problem.traffic(packed.nbytes, x.element_size()),
        bits_per_weight=8.0 * packed.nbytes / problem.shape.weights,
    )


def unpack_and_multiply(packed: PackedWeight, x: Tensor) -> Tensor:
    """[tokens, out_features], unpacking by table and in place where plain torch can."""
    if isinstance(packed, Signs) and packed.in_scales is not None and packed.out_scales is not None:
        gates = packed.gates(x).to(x.dtype)
        y = F.linear(x * (gates @ packed.in_scales.to(x.dtype)), _signs(packed.weight, x.dtype))
        return y * (gates @ packed.out_scales.to(x.dtype))
    if isinstance(packed, Planes):
        weight = _signs(packed.weight[0], x.dtype)
        for plane in packed.weight[1:]:
            weight = weight.mul_(2).add_(_signs(plane, x.dtype))
        groups = weight.view(packed.out_features, -1, packed.group_size)
        groups.mul_(packed.scales.to(weight.dtype)[:, :, None])
        return F.linear(x, weight)
    return F.linear(x, packed.dequantize().to(x.dtype))


def _signs(bits: Tensor, dtype: torch.dtype) -> Tensor:
    return _SIGNS_OF_BYTE[dtype].index_select(0, bits.flatten().int()).reshape(bits.shape[0], -1)
