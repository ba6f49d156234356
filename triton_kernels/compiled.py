"""What is compiled ahead of time: kernels as they are launched for the shapes of common models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, without its data.

    A module of kernels lists those it ships by `launches(gpu) -> list[Launch]`; benchmarks/triton_report
    compiles them and tests hold them to the recorded figures.

    Attributes:
        name: of the row in the report, "signs, fast, 1 token".
        kernel: the function decorated with triton.jit.
        signature: argument -> Triton type ("*i8", "*fp16", "i32", "fp32"), in the order of the parameters.
            Pointers are aligned to 16 bytes, and so are the integers in `divisible`; constexprs are left out.
        constexprs: parameter -> value; None for a tensor that is absent.
        options: num_warps, num_stages.
        weights: that one iteration of the hot loop of one program multiplies (rows x inputs of the tile), of
            a GEMM for each of its tokens anew; 0 for a kernel without weights.
        divisible: integer arguments that are multiples of 16.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    options: Mapping[str, int]
    weights: int = 0
    divisible: tuple[str, ...] = field(default=())
