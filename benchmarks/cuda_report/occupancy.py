"""How many blocks of a kernel share a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass

from .gpus import REGISTERS, RESERVED_SHARED, Gpu


@dataclass(frozen=True)
class Occupancy:
    blocks: int
    warps: int
    limit: str  # what keeps it from more


def occupancy(gpu: Gpu, registers: int, shared: int, threads: int) -> Occupancy:
    """Warps get registers in units of 256 from four equal parts of the file, blocks get shared memory."""
    warps = -(-threads // 32)
    per_warp = -(-max(registers, 1) * 32 // 256) * 256
    fits = {
        "warps": gpu.max_warps // warps,
        "blocks": gpu.max_blocks,
        "registers": REGISTERS // 4 // per_warp * 4 // warps,
        "shared memory": gpu.shared_kb * 1024 // (shared + RESERVED_SHARED),
    }
    limit = min(fits, key=lambda name: fits[name])
    return Occupancy(fits[limit], fits[limit] * warps, limit)
