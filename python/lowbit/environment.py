"""The machine and the software a number was obtained with: every report carries this stamp."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

import lowbit

# Instruction sets that decide which kernel runs; everything else a CPU can do is noise in a report.
_ISA_FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi", "avx512_bf16", "gfni"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm"),
)
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
_QUIET_LOAD = 0.7  # of the last minute, on any number of cores
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}


def cache_sizes() -> dict[str, int]:
    """Bytes of each data cache one core sees, e.g. ``{"L1d": 49152, "L2": 1048576, "L3": 33554432}``.

    Empty where the system does not tell (only Linux does).
    """
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction":
            sizes[f"L{level}" + ("d" if kind == "Data" and level == "1" else "")] = _parse_size(size)
    return sizes


def last_level_cache() -> int:
    """Bytes of the largest cache, 32 MiB where the system does not tell."""
    return max(cache_sizes().values(), default=32 * 1024**2)


def governor() -> str | None:
    """How the system sets the first core's clock, e.g. ``performance``; None where it does not tell."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def environment() -> dict[str, object]:
    """JSON-able description of this machine and of the versions in use.

    ``load_average`` is the number of busy processes over the last minute: a figure measured while it is well
    above zero before the run is not a clean one.
    """
    model, flags = _cpu()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cpu": model,
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_features": [flag for flag in _ISA_FLAGS if flag in flags],
        "caches": cache_sizes(),
        "governor": governor(),
        "memory_bytes": _memory(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": sys.version.split()[0],
        "versions": {"lowbit": lowbit.__version__} | {name: _version(name) for name in _PACKAGES},
        "torch_threads": torch.get_num_threads(),
        "native_instruction_set": lowbit.info().instruction_set,
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("LOWBIT_") or name in ("OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE")
        },
    }


def describe(stamp: dict[str, object]) -> str:
    """One line for the foot of a table or a picture."""
    caches = stamp["caches"]
    versions = stamp["versions"]
    assert isinstance(caches, dict)
    assert isinstance(versions, dict)
    parts = [str(stamp["cpu"]), f"{stamp['cpu_count']} cores"]
    if caches:
        parts.append(f"{max(caches.values()) // 1024**2} MiB last-level cache")
    threads = stamp["torch_threads"]
    parts.append("1 thread" if threads == 1 else f"{threads} threads")
    parts.append(f"native kernels: {stamp['native_instruction_set'] or 'none'}")
    software = ", ".join(f"{name} {versions[name]}" for name in ("lowbit", "torch", "transformers"))
    return f"{', '.join(parts)}; {software}"


def disturbance(stamp: dict[str, object]) -> str | None:
    """What to say under figures whose run began on a busy machine; None where it was quiet."""
    load = stamp["load_average"]
    if not isinstance(load, float) or load < _QUIET_LOAD:
        return None
    return (
        f"The load average was {load} when this run began: other processes were running, and these figures, "
        "ratios included, are not clean."
    )


def _cpu() -> tuple[str, set[str]]:
    """Model name and feature flags as the kernel prints them."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return model, flags
    for line in lines:
        key, _, value = line.partition(":")
        key = key.strip()
        if key == "model name":
            model = value.strip()
        elif key in ("flags", "Features"):
            flags.update(value.split())
        elif not line.strip() and flags:  # the first core speaks for all
            break
    return model, flags


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _parse_size(text: str) -> int:
    unit = _UNITS.get(text[-1:], 1)
    return int(text.rstrip("KMG")) * unit
