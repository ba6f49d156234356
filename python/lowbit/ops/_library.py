"""The native torch operators: loaded once, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from lowbit._build import LIBRARIES, build_record

LIBRARY = LIBRARIES / "_torch_cpu.so"
CUDA_LIBRARY = LIBRARIES / "_torch_cuda.so"
OLDEST_TRITON = (3, 6)  # compiles every kernel; most tests have run on 3.7.1 alone

_lock = RLock()


def load() -> str | None:
    """Makes torch.ops.lowbit available, with fakes and gradients. Returns None, or why it cannot be had."""
    with _lock:
        return _load()


def load_cuda() -> str | None:
    """The same for tensors on NVIDIA GPUs, on top of `load`."""
    with _lock:
        return _load_cuda()


@cache
def _load() -> str | None:
    if not LIBRARY.exists():
        record = build_record()
        return f"installed without native kernels: {record['reason'] or f'{LIBRARY} is missing'}"
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY} does not load with torch {torch.__version__}: {error}"
    from lowbit.ops import attention, codebook, planes, siblings, signs

    for module in (signs, planes, codebook, siblings, attention):
        module.register()
    return None


@cache
def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not CUDA_LIBRARY.exists():
        return f"installed without CUDA kernels: {build_record().get('cuda') or f'{CUDA_LIBRARY} is missing'}"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU, or no driver for it"
    failure = _load()
    if failure is not None:
        return failure
    try:
        torch.ops.load_library(str(CUDA_LIBRARY))
    except OSError as error:
        return f"{CUDA_LIBRARY} does not load with torch {torch.__version__}: {error}"
    from lowbit.backends import cuda_flags
    from lowbit.ops import _layouts

    _layouts.register()
    cuda_flags.register()
    return None


def load_triton() -> str | None:
    """Makes the operators of the Triton kernels available, for GPUs or interpreted."""
    with _lock:
        return _load_triton()


@cache
def _load_triton() -> str | None:
    try:
        import triton
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return "Triton is not installed (pip install triton)"
        return f"Triton does not import: {error}"
    except Exception as error:  # whatever a broken installation raises
        return f"Triton does not import: {type(error).__name__}: {error}"
    version = getattr(triton, "__version__", "of unknown version")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton {version} is too old: the kernels need {'.'.join(map(str, OLDEST_TRITON))} or newer"
    from lowbit.ops import _triton, codebook, planes, signs

    _triton.define()
    for module in (signs, planes, codebook):
        module.register("lowbit::triton_", out=False)
    return None


@cache
def operator(name: str) -> Callable[..., Tensor]:
    """torch.ops.lowbit.<name>, without the detour through Python's autograd where gradients are off.

    Registered gradients cost a call about 4 us even under torch.no_grad(): torch enters Python to find that
    there is nothing to record. Going below the autograd keys skips that, as inference mode does by itself;
    tracers see the operator alone.
    """
    op: Callable[..., Tensor] = getattr(torch.ops.lowbit, name).default
    below_autograd: Callable[[], Any] = torch._C._AutoDispatchBelowAutograd

    def call(*args: object) -> Tensor:
        # First whether this is traced: torch.compile refuses to look at inference mode.
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return op(*args)
        with below_autograd():
            return op(*args)

    call.__name__ = name
    return call
