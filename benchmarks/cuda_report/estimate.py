"""The model: how long a kernel would take, from its hot loop, its grid and the figures of a GPU. Estimates
only.

A multiprocessor with b blocks takes weights at the lowest of

    flight   what its warps can ask for while the latency passes, see below
    issue    4 warp instructions a clock
    alu      logic and integer lanes
    tensor   multiply-adds of the mma instructions
    l1       128 bytes a clock of loads from L1 and shared memory, weights on their way through included

and all multiprocessors together at no more than 92 % of the DRAM bandwidth, or what L2 delivers:

    cache    weights once, the columns once for every block, whose row warps share them, and the sums that
             blocks leave for each other, written and read

A warp that loads B bytes in a turn of its loop and uses them d turns later takes B in latency / d (Little's
law). With d < 1, where loads are issued inside the turn that uses them, it issues the rest of the turn only
after they have come: B in latency + (1 - d) of the turn. The compiled code says what d is: the mean of the
bytes under way over the loop's instructions, divided by B. Where a loop waits inside a turn for loads other
than of weights, that is part of the turn, and

    turn     what its warps can take, one turn after the other

The grid runs in waves: full ones, then a last one with fewer blocks. In a wave the multiprocessor with most
blocks takes as long as its own limits say, or all together as DRAM and L2 say, whichever is longer. A fixed
time is added for the kernel's start and end, with one latency to fill the pipeline, and another one for
blocks that wait for each other's sums, or what a block does before its first weight.

Not in it: clocks below boost, DRAM refresh and row misses, imbalance inside a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from .gpus import (
    ARRIVAL_NS,
    DEPENDENT_CLOCKS,
    DRAM_EFFICIENCY,
    ISSUE_PER_CLOCK,
    L1_BYTES_PER_CLOCK,
    START_NS,
    Gpu,
)
from .occupancy import Occupancy


@dataclass(frozen=True)
class Work:
    """What one launch does, and its hot loop per weight."""

    blocks: int
    weights: float  # in all
    bytes: float  # that come from DRAM for them: digits and scales
    cached: (
        float  # that pass L2: these, the columns for every block, and sums that blocks leave for each other
    )
    l1: float  # bytes per weight that pass L1 or shared memory, as many as its banks could have delivered
    instructions: float  # thread instructions per weight
    alu: float  # of these, on the ALU
    macs: float  # multiply-adds per weight, those of padded columns included
    mac_rate: int | None  # of the GPU for this kind, a clock and multiprocessor
    flight: float  # bytes that a warp has asked for and not used, the mean over its instructions
    splits: int = 1  # blocks that wait for each other's sums
    loaded: float = 0.0  # bytes that a turn of a warp's loop loads; 0: no more than are under way
    turn: float = 0.0  # instructions of a turn
    before_ns: float = 0.0  # that a block takes before its first weight
    stall_ns: float | None = None  # that a turn waits for loads of its own; None: not looked at
    first: float = 0.0  # share of a block's weights that it asks for at once when it begins
    from_dram: float = 1.0  # share of the bytes, where L2 has the rest from blocks before


@dataclass(frozen=True)
class Estimate:
    us: float
    gbs: float  # bytes / time
    share: float  # of the data sheet's DRAM bandwidth
    stream: float  # the same, without the kernel's start and end
    bound: str  # what limits a full wave: dram, cache, flight, turn, issue, alu, tensor or l1
    issue: float  # share of the issue slots that would be busy at full DRAM bandwidth
    tensor: float  # of the tensor units, the same
    waves: float


SHARED_BY_ALL = ("dram", "cache")


def rates(gpu: Gpu, work: Work, occupancy: Occupancy, blocks: int) -> dict[str, float]:
    """Bytes per nanosecond: of the GPU for what all share, else of a multiprocessor with `blocks` blocks."""
    per_byte = work.weights / work.bytes
    warps = blocks * occupancy.warps / occupancy.blocks
    clock = gpu.clock_ghz
    ahead = work.flight / work.loaded if work.loaded else 1.0
    per_instruction = max(DEPENDENT_CLOCKS, warps / ISSUE_PER_CLOCK) / clock
    turn = work.turn * per_instruction + (work.stall_ns or 0.0)
    waits = max(0.0, 1 - ahead) * turn
    found = {
        "dram": gpu.dram_gbs * DRAM_EFFICIENCY / work.from_dram,
        "cache": gpu.l2_gbs * work.bytes / work.cached,
        "flight": warps * max(work.flight, work.loaded) / (gpu.loaded_latency_ns + waits),
        "issue": clock * ISSUE_PER_CLOCK * 32 / (work.instructions * per_byte),
    }
    if work.stall_ns is not None:
        found["turn"] = warps * work.loaded / turn
    if work.alu:
        found["alu"] = clock * gpu.alu_lanes / (work.alu * per_byte)
    if work.macs and work.mac_rate:
        found["tensor"] = clock * work.mac_rate / (work.macs * per_byte)
    if work.l1:
        found["l1"] = clock * L1_BYTES_PER_CLOCK / (work.l1 * per_byte)
    return found


def wave(gpu: Gpu, work: Work, occupancy: Occupancy, blocks: int, first: bool = False) -> tuple[float, str]:
    """Nanoseconds that so many blocks take, at once, and what bounds them.

    The first wave's first weights come with the latency that fills the pipeline.
    """
    block_bytes = work.bytes / work.blocks
    most = -(-blocks // gpu.multiprocessors)
    found = {
        name: (blocks if name in SHARED_BY_ALL else most) * block_bytes / rate
        for name, rate in rates(gpu, work, occupancy, most).items()
    }
    found["flight"] *= 1 - (work.first if first else 0.0)
    bound = max(found, key=lambda name: found[name])
    return found[bound], bound


def estimate(gpu: Gpu, work: Work, occupancy: Occupancy) -> Estimate:
    capacity = occupancy.blocks * gpu.multiprocessors
    full, rest = divmod(work.blocks, capacity)
    # What a wave as full as this grid's can be is bound by.
    first, bound = wave(gpu, work, occupancy, min(work.blocks, capacity), first=True)
    stream = first
    if full > 1:
        stream += (full - 1) * wave(gpu, work, occupancy, capacity)[0]
    if full and rest:
        stream += wave(gpu, work, occupancy, rest)[0]
    nanoseconds = stream + START_NS + gpu.loaded_latency_ns + work.before_ns
    nanoseconds += ARRIVAL_NS if work.splits > 1 else 0
    from_dram = work.bytes * work.from_dram
    gbs = from_dram / nanoseconds
    steady = rates(gpu, work, occupancy, 1)
    return Estimate(
        us=nanoseconds / 1e3,
        gbs=gbs,
        share=gbs / gpu.dram_gbs,
        stream=from_dram / stream / gpu.dram_gbs,
        bound=bound,
        issue=gpu.dram_gbs / gpu.multiprocessors / steady["issue"],
        tensor=gpu.dram_gbs / gpu.multiprocessors / steady["tensor"] if "tensor" in steady else 0.0,
        waves=work.blocks / capacity,
    )
