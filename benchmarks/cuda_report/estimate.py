"""The model: how long a kernel would take, from its hot loop, its grid and the figures of a GPU. Estimates
only.

A multiprocessor with b blocks takes weights at the lowest of

    flight   b * warps * bytes in flight of a warp / latency           (Little's law)
    issue    4 warp instructions a clock
    alu      logic and integer lanes
    tensor   multiply-adds of the mma instructions

and all multiprocessors together at no more than 92 % of the DRAM bandwidth, or what L2 delivers:

    cache    weights once, and the columns once for every block, whose row warps share them in L1

The grid runs in waves: full ones, then a last one with fewer blocks, on which only the multiprocessors that
have one work. A fixed time is added for the kernel's start and end, with one latency to fill the pipeline.

Not in it: bank conflicts, L1 traffic, clocks below boost, DRAM refresh and row misses, imbalance
inside a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from .gpus import DRAM_EFFICIENCY, ISSUE_PER_CLOCK, START_NS, Gpu
from .occupancy import Occupancy


@dataclass(frozen=True)
class Work:
    """What one launch does, and its hot loop per weight."""

    blocks: int
    weights: float  # in all
    bytes: float  # that come from DRAM for them: digits and scales
    cached: float  # that come from L2: these, and the columns for every block
    instructions: float  # thread instructions per weight
    alu: float  # of these, on the ALU
    macs: float  # multiply-adds per weight, those of padded columns included
    mac_rate: int | None  # of the GPU for this kind, a clock and multiprocessor
    flight: int  # bytes that a warp has asked for and not got


@dataclass(frozen=True)
class Estimate:
    us: float
    gbs: float  # bytes / time
    share: float  # of the data sheet's DRAM bandwidth
    stream: float  # the same, without the kernel's start and end
    bound: str  # what limits a full wave: dram, cache, flight, issue, alu or tensor
    issue: float  # share of the issue slots that would be busy at full DRAM bandwidth
    tensor: float  # of the tensor units, the same
    waves: float


def rates(gpu: Gpu, work: Work, occupancy: Occupancy, blocks: int, active: int) -> dict[str, float]:
    """Bytes per nanosecond of `active` multiprocessors with `blocks` each, by what limits them."""
    per_byte = work.weights / work.bytes
    warps = blocks * occupancy.warps / occupancy.blocks
    clock = gpu.clock_ghz * active
    found = {
        "dram": gpu.dram_gbs * DRAM_EFFICIENCY,
        "cache": gpu.l2_gbs * work.bytes / work.cached,
        "flight": active * warps * work.flight / gpu.loaded_latency_ns,
        "issue": clock * ISSUE_PER_CLOCK * 32 / (work.instructions * per_byte),
    }
    if work.alu:
        found["alu"] = clock * gpu.alu_lanes / (work.alu * per_byte)
    if work.macs and work.mac_rate:
        found["tensor"] = clock * work.mac_rate / (work.macs * per_byte)
    return found


def estimate(gpu: Gpu, work: Work, occupancy: Occupancy) -> Estimate:
    block_bytes = work.bytes / work.blocks
    capacity = occupancy.blocks * gpu.multiprocessors
    full, rest = divmod(work.blocks, capacity)
    stream = 0.0
    if full:
        stream += (
            full
            * capacity
            * block_bytes
            / min(rates(gpu, work, occupancy, occupancy.blocks, gpu.multiprocessors).values())
        )
    if rest:
        active = min(rest, gpu.multiprocessors)
        stream += rest * block_bytes / min(rates(gpu, work, occupancy, -(-rest // active), active).values())
    # What a wave as full as this grid's can be is bound by.
    most = min(occupancy.blocks, -(-work.blocks // gpu.multiprocessors))
    steady = rates(gpu, work, occupancy, most, min(work.blocks, gpu.multiprocessors))
    nanoseconds = stream + START_NS + gpu.loaded_latency_ns
    gbs = work.bytes / nanoseconds
    return Estimate(
        us=nanoseconds / 1e3,
        gbs=gbs,
        share=gbs / gpu.dram_gbs,
        stream=work.bytes / stream / gpu.dram_gbs,
        bound=min(steady, key=lambda name: steady[name]),
        issue=gpu.dram_gbs / steady["issue"],
        tensor=gpu.dram_gbs / steady["tensor"] if "tensor" in steady else 0.0,
        waves=work.blocks / capacity,
    )
