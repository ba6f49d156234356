"""The Triton kernels as torch operators lowbit::triton_<kind>_linear, with the native ones' arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from lowbit.backends.torch import TorchBackend
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
        # The specification has the same arguments.
        schema = torch.library.infer_schema(TorchBackend().operator(kind), mutates_args=())
        define_one(f"lowbit::triton_{kind}_linear", _of_any_shape(kernel), mutates_args=(), schema=schema)


def _of_any_shape(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`kernel`, which takes x [M, K], for x [..., K]."""

    def operator(x: Tensor, *args: Any) -> Tensor:
        y = kernel(x.reshape(-1, x.shape[-1]), *args)
        return y.reshape(*x.shape[:-1], y.shape[1])

    return operator
