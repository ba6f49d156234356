"""torch's own linears: fp32 and bf16, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from timing import Candidate
from torch import Tensor
from torch.nn import functional as F

from rivals import Problem

FP32, BF16, COMPILED = "torch fp32", "torch bf16", "torch.compile bf16"


def candidates(problem: Problem) -> list[Candidate]:
    found = [_dense(problem, FP32, F.linear, torch.float32), _dense(problem, BF16, F.linear, torch.bfloat16)]
    # The layer is compiled for its shape, as in a model: no other candidate adds a dynamic dimension.
    compiled = torch.compile(_linear, dynamic=False)
    try:
        found.append(_dense(problem, COMPILED, compiled, torch.bfloat16))
        found[-1].calls[0]()
    except Exception as error:  # no compiler on this machine, for one
        found = [candidate for candidate in found if candidate.name != COMPILED]
        problem.leave_out(COMPILED, f"{type(error).__name__}: {error}")
    return found


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def _dense(
    problem: Problem, name: str, linear: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> Candidate:
    x, weight = problem.x.to(dtype), problem.weight().to(dtype)
    copies = [weight, *(weight.clone() for _ in range(problem.copies(weight.nbytes) - 1))]
    return Candidate(
        name,
        [partial(linear, x, copy) for copy in copies],
        problem.traffic(weight.nbytes, weight.element_size()),
        bits_per_weight=8.0 * weight.element_size(),
    )
