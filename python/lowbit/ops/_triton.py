"""The Triton kernels as torch operators lowbit::triton_<kind>_linear, with the native ones' arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from lowbit.backends.arguments import ARGUMENTS, Arguments
from lowbit.ops import _triton_arguments
from lowbit.triton_kernels import codebook, planes, signs

KERNELS: dict[str, Callable[[Any], Tensor]] = {
    "signs": signs.signs_linear,
    "planes": planes.planes_linear,
    "codebook_channel": codebook.channel_linear,
    "codebook_scalar": codebook.scalar_linear,
    "codebook_vector": codebook.vector_linear,
}


def define() -> None:
    """Defines the operators. Tracers look into them and find the kernels, if those are compiled."""
    define_one = torch.library.custom_op if triton.knobs.runtime.interpret else torch.library.triton_op
    for kind, kernel in KERNELS.items():
        operator = _of_any_shape(kernel, getattr(_triton_arguments, kind), ARGUMENTS[kind])
        define_one(f"lowbit::triton_{kind}_linear", operator, mutates_args=())


def _of_any_shape(
    kernel: Callable[[Any], Tensor], check: Callable[[Any], None], record: type[Arguments]
) -> Callable[..., Tensor]:
    """`kernel`, which takes x [M, K], for x [..., K] and what else `check` lets pass."""

    def operator(*values: Any) -> Tensor:
        arguments = record(*values)
        check(arguments)
        x = arguments.x
        y = kernel(arguments._replace(x=x.reshape(-1, x.shape[-1])))
        return y.reshape(*x.shape[:-1], y.shape[1])

    signature = inspect.signature(record)
    operator.__signature__ = signature.replace(return_annotation=Tensor)  # type: ignore[attr-defined]
    return operator
