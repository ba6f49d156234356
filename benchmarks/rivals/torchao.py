"""torchao's int4 weight-only linear, where the installed build has one for this CPU."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
from timing import Candidate
from torch import nn

from rivals import Missing, Problem

NAME = "torchao int4 weight only"
GROUP = 128


def candidates(problem: Problem) -> list[Candidate]:
    try:
        from torchao.quantization import Int4WeightOnlyConfig, quantize_
    except ImportError as error:
        raise Missing(error) from error
    n, k = problem.shape.out_features, problem.shape.in_features
    model = nn.Sequential(nn.Linear(k, n, bias=False, dtype=torch.bfloat16))
    model[0].weight.data = problem.weight().bfloat16()
    x = problem.x.bfloat16()
    try:
        quantize_(model, Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="opaque"))
        model(x)
    except Exception as error:  # whatever a build without CPU kernels raises is the reason to report
        raise Missing(f"{type(error).__name__}: {error}") from error
    nbytes = problem.shape.weights // 2 + n * k // GROUP * 4
    models = [model, *(deepcopy(model) for _ in range(problem.copies(nbytes) - 1))]
    return [
        Candidate(
            NAME,
            [partial(each, x) for each in models],
            problem.traffic(nbytes, 2),
            bits_per_weight=8.0 * nbytes / problem.shape.weights,
        )
    ]
