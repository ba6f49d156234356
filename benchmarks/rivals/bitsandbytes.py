"""bitsandbytes' 4-bit linear on CPUs: NF4, groups of 64, bf16 activations."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
from timing import Candidate

from rivals import Missing, Problem

NAME = "bitsandbytes nf4"
GROUP = 64


def candidates(problem: Problem) -> list[Candidate]:
    try:
        from bitsandbytes.nn import Linear4bit
    except Exception as error:  # its import runs code of its own that may fail in many ways
        raise Missing(f"{type(error).__name__}: {error}") from error
    n, k = problem.shape.out_features, problem.shape.in_features
    x = problem.x.bfloat16()
    nbytes = problem.shape.weights // 2 + problem.shape.weights // GROUP * 4
    try:
        linear = Linear4bit(k, n, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").eval()
        linear.load_state_dict({"weight": problem.weight().bfloat16()})
        linear = linear.requires_grad_(False).to("cpu")  # quantises
        modules = [linear, *(deepcopy(linear) for _ in range(problem.copies(nbytes) - 1))]
        for module in modules:
            module(x)  # the first call re-lays the weight
    except Exception as error:
        raise Missing(f"{type(error).__name__}: {error}") from error
    return [
        Candidate(
            NAME,
            [partial(module, x) for module in modules],
            problem.traffic(nbytes, 2),
            bits_per_weight=8.0 * nbytes / problem.shape.weights,
        )
    ]
