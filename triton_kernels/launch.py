"""How host code starts a kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """`kernel[grid](*args, **options)` on the current device and stream.

    Inside torch.library.triton_op tracers such as torch.compile see the kernel itself instead of an opaque
    call. Interpreted kernels (TRITON_INTERPRET=1) are plain Python, which no tracer takes for a kernel.
    """
    if isinstance(kernel, triton.JITFunction):
        kernel = torch.library.wrap_triton(kernel)
    kernel[grid](*args, **options)
