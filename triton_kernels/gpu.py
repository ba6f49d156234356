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

from . import shipped

INTERPRETED_MULTIPROCESSORS = 132  # as many as an H100 has
_NONE: Mapping[str, tuning.Tiles] = MappingProxyType({})


class Gpu(NamedTuple):
    """Tiles by the key of a product: `tuned`, what measurements on this GPU have chosen (lowbit.tuning), and
    `shipped`, what estimates have for GPUs like it (shipped.py).

    Attributes:
        capability: for compute, of NVIDIA's; AMD's keep this one.
        amd: it is AMD's, where eight warps have 256 registers a thread, and four have 512.
    """

    multiprocessors: int
    tuned: Mapping[str, tuning.Tiles] = _NONE
    capability: tuple[int, int] = (8, 0)
    shipped: Mapping[str, tuning.Tiles] = _NONE
    amd: bool = False

    @property
    def lanes(self) -> int:
        """Of a warp."""
        return 64 if self.amd else 32

    def tiles(self, product: str) -> tuning.Tiles | None:
        """Measured ones, else shipped ones, else None: those that shape and GPU suggest."""
        origin, found = MEASURED, self.tuned.get(product)
        if found is None:
            origin, found = SHIPPED, self.shipped.get(product)
        if (noted := _noted.get()) is not None:
            noted[product] = COMPUTED if found is None else origin
        return found


MEASURED, SHIPPED, COMPUTED = "measured on this GPU", "estimated, shipped", "from shape and GPU"
_assumed: ContextVar[Gpu | None] = ContextVar("assumed", default=None)
_noted: ContextVar[dict[str, str] | None] = ContextVar("noted", default=None)


def gpu_of(device: torch.device) -> Gpu:
    """The GPU `device`, with what is stored of its tuning; or the one that `assume` names."""
    return _assumed.get() or _found(device)


@cache
def _found(device: torch.device) -> Gpu:
    if device.type != "cuda":
        return Gpu(INTERPRETED_MULTIPROCESSORS)
    count = torch.cuda.get_device_properties(device).multi_processor_count
    tuned = tuning.load(torch.cuda.get_device_name(device))
    if torch.version.hip is not None:
        return Gpu(count, tuned, amd=True)
    capability = torch.cuda.get_device_capability(device)
    return Gpu(count, tuned, capability, shipped.tables(capability).get(count, _NONE))


def forget() -> None:
    """Looks for stored tuning anew."""
    _found.cache_clear()


@contextmanager
def note_origins() -> Iterator[dict[str, str]]:
    """Inside, where tiles come from is noted, by product: MEASURED, SHIPPED or COMPUTED."""
    noted: dict[str, str] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@contextmanager
def assume(gpu: Gpu) -> Iterator[None]:
    """Inside, tiles are chosen as for this GPU, whatever the device."""
    token = _assumed.set(gpu)
    try:
        yield
    finally:
        _assumed.reset(token)
