"""Backends and the choice between them.

The order of preference is `cuda`, `triton`, `cpu`, `torch`. The environment variable LOWBIT_BACKEND, or an
explicit argument, which goes before it, forces one; a forced backend that cannot run is an error, never
replaced by another.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from lowbit.backends.base import Availability, Backend, packed_format
from lowbit.backends.cpu import CpuBackend
from lowbit.backends.cuda import CudaBackend
from lowbit.backends.torch import TorchBackend
from lowbit.backends.triton import TritonBackend
from lowbit.errors import BackendError

ORDER = ("cuda", "triton", "cpu", "torch")
ENVIRONMENT = "LOWBIT_BACKEND"

_REGISTERED: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Adds a backend under its name, which must be one of ORDER."""
    if backend.name not in ORDER:
        raise BackendError("unknown backend name", found=repr(backend.name), allowed=", ".join(ORDER))
    _REGISTERED[backend.name] = backend


register(CudaBackend())
register(TritonBackend())
register(CpuBackend())
register(TorchBackend())


class Choice(NamedTuple):
    """The backend for a layer, why it was taken, and why the ones before it in ORDER were not."""

    backend: Backend
    reason: str
    rejected: dict[str, str]


def get(name: str) -> Backend:
    """The registered backend of that name."""
    return _REGISTERED[name]


def forced_name(backend: str | None = None) -> str | None:
    """The backend that argument or environment force, if any.

    Raises:
        BackendError: the name is not one of ORDER.
    """
    name = backend or os.environ.get(ENVIRONMENT) or None
    if name is not None and name not in ORDER:
        where = "backend" if backend else ENVIRONMENT
        raise BackendError(f"{where} names no backend", found=repr(name), allowed=", ".join(ORDER))
    return name


def availability() -> dict[str, Availability]:
    """Every backend of ORDER: can it run here, and why or why not."""
    return {name: get(name).available() for name in ORDER}


def select(
    kind: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None = None,
    layer: str | None = None,
) -> Choice:
    """The first backend that can run a layer, or the forced one.

    Args:
        kind: kind of the format ("signs", "planes", "codebook_channel", ...).
        device: where the layer's tensors are.
        dtype: dtype of the activations.
        backend: force this one.
        layer: name for error messages.

    Raises:
        BackendError: the forced backend cannot run this layer; the message has its reason.
    """
    forced = forced_name(backend)
    rejected: dict[str, str] = {}
    for name in ORDER if forced is None else (forced,):
        answer = get(name).supports(kind, device, dtype, forced=forced is not None)
        if answer.ok:
            reason = answer.reason if forced is None else f"forced; {answer.reason}"
            return Choice(get(name), reason, rejected)
        rejected[name] = answer.reason
    raise BackendError(f"backend '{forced}' cannot run it", layer=layer, found=rejected[str(forced)])


__all__ = [
    "ENVIRONMENT",
    "ORDER",
    "Availability",
    "Backend",
    "Choice",
    "availability",
    "forced_name",
    "get",
    "packed_format",
    "register",
    "select",
]
