"""How fast a device reads memory: for estimates, never for benchmarks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

_BYTES = 128 << 20  # beyond the caches
_ROUNDS = 3


@dataclass(frozen=True)
class Bandwidth:
    """`source` says whether it was measured or stated."""

    bytes_per_second: float
    source: str


@cache
def bandwidth(device: torch.device) -> Bandwidth | None:
    """Of a CPU measured, in less than a second; of an NVIDIA GPU stated by its driver; else None."""
    if device.type == "cpu":
        return _measured()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        clock, width = getattr(properties, "memory_clock_rate", 0), getattr(properties, "memory_bus_width", 0)
        if clock and width:  # kHz, and bits that carry two transfers a clock
            return Bandwidth(2e3 * clock * width / 8, "stated by the driver")
    return None


def _measured() -> Bandwidth:
    values = torch.ones(_BYTES // 8, dtype=torch.float64)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - start)
    return Bandwidth(_BYTES / min(times), f"measured with {torch.get_num_threads()} threads")
