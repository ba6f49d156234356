"""The GPU that tiles are chosen for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from lowbit import tuning

INTERPRETED_MULTIPROCESSORS = 132  # as many as an H100 has


class Gpu(NamedTuple):
    """`tuned`: what measurements on it have chosen, by the key of a product; see lowbit.tuning."""

    multiprocessors: int
    tuned: Mapping[str, tuning.Tiles] = MappingProxyType({})
    capability: tuple[int, int] = (8, 0)  # for compute; on GPUs of other makers than NVIDIA this


_assumed: ContextVar[Gpu | None] = ContextVar("assumed", default=None)


def gpu_of(device: torch.device) -> Gpu:
    """The GPU `device`, with what is stored of its tuning; or the one that `assume` names."""
    return _assumed.get() or _found(device)


@cache
def _found(device: torch.device) -> Gpu:
    if device.type != "cuda":
        return Gpu(INTERPRETED_MULTIPROCESSORS)
    count = torch.cuda.get_device_properties(device).multi_processor_count
    capability = torch.cuda.get_device_capability(device) if torch.version.hip is None else (8, 0)
    return Gpu(count, tuning.load(torch.cuda.get_device_name(device)), capability)


def forget() -> None:
    """Looks for stored tuning anew."""
    _found.cache_clear()


@contextmanager
def assume(gpu: Gpu) -> Iterator[None]:
    """Inside, tiles are chosen as for this GPU, whatever the device."""
    token = _assumed.set(gpu)
    try:
        yield
    finally:
        _assumed.reset(token)
