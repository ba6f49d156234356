"""torch's two int8 linears on CPUs: dynamically quantised activations, and weight only."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from timing import Candidate
from torch import Tensor, nn

from rivals import Problem, relative_error

DYNAMIC, WEIGHT_ONLY = "torch int8 dynamic", "torch int8 weight only"


def candidates(problem: Problem) -> list[Candidate]:
    found = []
    builders: dict[str, Callable[[Problem], Candidate]] = {DYNAMIC: dynamic, WEIGHT_ONLY: weight_only}
    for name, build in builders.items():
        try:
            found.append(build(problem))
        except (
            AttributeError,
            RuntimeError,
            NotImplementedError,
        ) as error:  # absent or refused in this build
            problem.leave_out(name, error)
    return found


def dynamic(problem: Problem) -> Candidate:
    """``torch.ao.nn.quantized.dynamic.Linear``: int8 x int8, activations quantised per tensor, fp32 ends."""
    n, k = problem.shape.out_features, problem.shape.in_features
    linear = nn.Linear(k, n, bias=False)
    linear.weight.data = problem.weight()
    with warnings.catch_warnings():  # the interface is deprecated, and the fastest one torch has here
        warnings.simplefilter("ignore")
        linear.qconfig = torch.ao.quantization.default_dynamic_qconfig
        packed = torch.ao.nn.quantized.dynamic.Linear.from_float(linear)
        exact = problem.x @ packed.weight().dequantize().T
        error = relative_error(packed(problem.x), exact)
        modules = [packed, *(deepcopy(packed) for _ in range(problem.copies(n * k) - 1))]
    return Candidate(
        DYNAMIC,
        [partial(module, problem.x) for module in modules],
        problem.traffic(n * k, 4),
        bits_per_weight=8.0,
        activation_error=error,
    )


def weight_only(problem: Problem) -> Candidate:
    """``aten::_weight_int8pack_mm``: bf16 activations, int8 weights with one scale a row."""
    weight = problem.weight()
    scales = weight.abs().amax(dim=1) / 127
    codes = (weight / scales[:, None]).round().to(torch.int8)
    x = problem.x.bfloat16()
    scales16 = scales.bfloat16()

    def call(copy: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(x, copy, scales16)

    call(codes)
    copies = [codes, *(codes.clone() for _ in range(problem.copies(codes.nbytes) - 1))]
    return Candidate(
        WEIGHT_ONLY,
        [partial(call, copy) for copy in copies],
        problem.traffic(codes.nbytes + scales16.nbytes, 2),
        bits_per_weight=8.0 * (codes.nbytes + scales16.nbytes) / codes.numel(),
    )
