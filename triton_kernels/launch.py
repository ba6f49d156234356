"""How host code starts a kernel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from triton.runtime.jit import KernelInterface


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """`kernel[grid](*args, **options)` on the device of the first argument, a tensor, and its current stream.

    Give it `wrap_triton(name_of_the_kernel)`. So torch, which reads the source of an operator for calls of
    that form, knows what its compiled graphs depend on, and tracers such as torch.compile see the kernel
    itself instead of an opaque call. Where one does, nothing is launched, and the compiled graph looks after
    the device.
    """
    traced = not isinstance(kernel, KernelInterface)
    with nullcontext() if traced else torch.cuda.device_of(args[0]):
        kernel[grid](*args, **options)
