"""The Triton kernels as torch operators lowbit::triton_<kind>_linear, with the native ones' arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from lowbit.backends.torch import TorchBackend
from lowbit.ops import _triton_arguments
from lowbit.triton_kernels import codebook, planes, signs

KERNELS: dict[str, Callable[..., Tensor]] = {
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
        check = getattr(_triton_arguments, kind)
        operator = _of_any_shape(kernel, check, TorchBackend().operator(kind))
        define_one(f"lowbit::triton_{kind}_linear", operator, mutates_args=())


def _of_any_shape(
    kernel: Callable[..., Tensor], check: Callable[..., None], specification: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """`kernel`, which takes x [M, K], for x [..., K] that `check` lets pass.

    Torch reads the arguments off the specification's.
    """

    def operator(x: Tensor, *args: Any) -> Tensor:
        check(x, *args)
        y = kernel(x.reshape(-1, x.shape[-1]), *args)
        return y.reshape(*x.shape[:-1], y.shape[1])

    operator.__signature__ = inspect.signature(specification)  # type: ignore[attr-defined]
    return operator
