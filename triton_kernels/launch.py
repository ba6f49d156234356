"""How host code starts a kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from triton.runtime.jit import KernelInterface


class Listed(NamedTuple):
    """A launch; `options`: constexprs given by name, num_warps, num_stages."""

    kernel: str
    grid: tuple[int, ...]
    options: Mapping[str, Any]

    def __str__(self) -> str:
        """The kernel and its tile, rows x columns of y."""
        columns = self.options.get("BLOCK_COLUMNS", self.options.get("BLOCK_TOKENS"))
        rows = self.options.get("BLOCK_ROWS")
        return self.kernel if rows is None else f"{self.kernel} {rows}x{columns or 1}"


_listed: ContextVar[list[Listed] | None] = ContextVar("listed", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """`kernel[grid](*args, **options)` on the device of the first argument, a tensor, and its current stream.

    Give it `wrap_triton(name_of_the_kernel)`. So torch, which reads the source of an operator for calls of
    that form, knows what its compiled graphs depend on, and tracers such as torch.compile see the kernel
    itself instead of an opaque call. Where one does, nothing is launched, and the compiled graph looks after
    the device.
    """
    traced = not isinstance(kernel, KernelInterface)
    if (listed := _listed.get()) is not None:
        listed.append(Listed((kernel.kernel if traced else kernel).fn.__name__, grid, options))
        return
    with nullcontext() if traced else torch.cuda.device_of(args[0]):
        kernel[grid](*args, **options)


@contextmanager
def dry_run() -> Iterator[list[Listed]]:
    """Launches inside are listed instead of started."""
    listed: list[Listed] = []
    token = _listed.set(listed)
    try:
        yield listed
    finally:
        _listed.reset(token)
