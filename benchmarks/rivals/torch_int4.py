"""torch's int4 linear on CPUs: ``aten::_weight_int4pack_mm_for_cpu``, bf16 activations, groups of 128."""

from __future__ import annotations

from functools import partial

import torch
from timing import Candidate
from torch import Tensor

from rivals import Missing, Problem

NAME = "torch int4 weight only"
GROUP = 128


def candidates(problem: Problem) -> list[Candidate]:
    n, k = problem.shape.out_features, problem.shape.in_features
    x = problem.x.bfloat16()
    codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
    scales_and_zeros = torch.rand(k // GROUP, n, 2).bfloat16()
    ops = torch.ops.aten

    def call(weight: Tensor) -> Tensor:
        return ops._weight_int4pack_mm_for_cpu(x, weight, GROUP, scales_and_zeros)

    try:
        packed = ops._convert_weight_to_int4pack_for_cpu(codes, 1)
        call(packed)
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        raise Missing(error) from error
    copies = [packed, *(packed.clone() for _ in range(problem.copies(packed.nbytes) - 1))]
    nbytes = packed.nbytes + scales_and_zeros.nbytes
    return [
        Candidate(
            NAME,
            [partial(call, copy) for copy in copies],
            problem.traffic(nbytes, 2),
            bits_per_weight=8.0 * nbytes / problem.shape.weights,
        )
    ]
