"""What the model of the time (estimate.py) needs to know of a compiled product."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cuda_report.disassembly import Function, Instruction, only_kernel
from cuda_report.loops import Loop, pipe, width_of
from lowbit.triton_kernels.bits.variants import Variant

from .compiling import compile_launch, hot
from .targets import Target

BLOCK_BYTES = 128  # of weights that a row loads at a time
LANES = 32
# Multiply-adds of an instruction of a warp by its shape; IGMMA's are of four warps.
_MACS = {"IMMA": 16 * 8 * 32, "IGMMA": 64 * 32 // 4}
_TURNS = 4  # after so many copies under way are those of any turn


@dataclass(frozen=True)
class Facts:
    """Of a turn of the hot loop of one warp; of several digits one turn of each.

    Attributes:
        registers: of a thread. spills: bytes of stack. shared: bytes of a program.
        weights: of the program, not of the warp.
        instructions, alu, macs: of them all, on the ALU, and multiply-adds.
        l1: bytes of a lane that pass L1 or shared memory.
        loaded: bytes of weights that are asked for.
        under_way: of these asked for and not yet waited for, the mean over the instructions.
        warpgroup: whether wgmma multiplies, which has twice the rate of mma.sync.
        waits: loads that the turn itself uses, by the places of the instructions that load and use, as far as
            they matter (`shortest`): "17-60 22-65".
    """

    registers: int
    spills: int
    shared: int
    weights: int
    instructions: int
    alu: int
    macs: int
    l1: int
    loaded: int
    under_way: float
    warpgroup: bool
    waits: str

    def per_weight(self, warps: int) -> float:
        """Thread instructions."""
        return LANES * warps * self.instructions / self.weights

    def row(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def facts(variant: Variant, target: Target) -> Facts:
    """Compiles the variant and takes it apart."""
    launch = variant.launch()
    compiled = compile_launch(launch, target)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        function = only_kernel(cubin, int(target.architecture))
    return of_function(function, compiled.metadata.shared, launch.weights, variant)


def of_function(function: Function, shared: int, weights: int, variant: Variant) -> Facts:
    loops = hot(function)
    block = variant.rows * BLOCK_BYTES // variant.warps
    copies = [Copies.of(loop, block) for loop in loops]
    body = [item for loop in loops for item in loop.body]
    # The bytes of every digit wait as long as their own loop makes them.
    taken = sum(each.loaded / max(each.under_way, 1.0) for each in copies)
    loaded = sum(each.loaded for each in copies)
    if loaded * variant.warps * 8 != weights * sum(variant.product.widths):
        raise ValueError(
            f"{variant.name}: copies of {loaded} bytes a warp are not those of {weights} weights"
        )
    waits: list[tuple[int, int]] = []
    before = 0
    for loop in loops:
        waits += [(before + load, before + use) for load, use in waits_of(loop)]
        before += len(loop.body)
    return Facts(
        registers=function.registers,
        spills=function.stack,
        shared=shared,
        weights=weights,
        instructions=len(body),
        alu=sum(pipe(item) == "ALU" for item in body),
        macs=sum(map(_macs, body)),
        l1=sum(map(_l1_bytes, body)),
        loaded=loaded,
        under_way=round(loaded / taken, 1) if taken else 0.0,
        warpgroup=any(item.name == "IGMMA" for item in body),
        waits=" ".join(f"{load}-{use}" for load, use in shortest(waits)),
    )


@dataclass(frozen=True)
class Copies:
    """Asynchronous copies of weights to shared memory, of a warp, in bytes: see Facts."""

    loaded: int
    under_way: float

    @staticmethod
    def of(loop: Loop, block: int) -> Copies:
        """`block`: bytes of a warp's part of one block of weights, by which its copies are known."""
        pending: list[int] = []
        open_, counts, loaded = 0, [0], 0
        for _ in range(_TURNS):
            counts, loaded = [], 0
            for item in loop.body:
                if item.name == "LDGSTS":
                    open_ += LANES * width_of(item) // 8
                elif item.name == "LDGDEPBAR":
                    pending.append(block if open_ == block else 0)
                    loaded += pending[-1]
                    open_ = 0
                elif item.opcode == "DEPBAR.LE" and (found := re.match(r"SB0, 0x(\w+)", item.operands)):
                    kept = int(found[1], 16)
                    pending = pending[len(pending) - kept :] if kept < len(pending) else pending
                counts.append(sum(pending))
        return Copies(loaded, sum(counts) / len(counts))


def waits_of(loop: Loop) -> Iterator[tuple[int, int]]:
    """Loads to registers: their place in the turn and that of their first use, in this turn or the next."""
    size = len(loop.body)
    for place, item in enumerate(loop.body):
        if item.name == "LDG":
            first = int(re.findall(r"R(\d+)", item.operands)[0])
            filled = {f"R{first + i}" for i in range(math.ceil(width_of(item) / 32))}
            for later in range(place + 1, place + size + 1):
                if not filled.isdisjoint(re.findall(r"R\d+", loop.body[later % size].operands)):
                    yield place, later
                    break


def shortest(waits: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those with no other one inside: who has waited for that need not wait again."""
    found: list[tuple[int, int]] = []
    for load, use in sorted(waits, key=lambda each: (each[1], -each[0])):
        if not found or load > found[-1][0]:
            found.append((load, use))
    return found


def stall_clocks(waits: Sequence[tuple[int, int]], latency: float, per_instruction: float) -> float:
    """Clocks that a warp waits in a turn for `shortest` waits.

    It issues in order, an instruction every `per_instruction` clocks.
    """
    ends: list[tuple[int, float]] = []  # uses, and clocks waited until then
    for load, use in waits:
        at_load = max((waited for place, waited in ends if place <= load), default=0.0)
        waited = ends[-1][1] if ends else 0.0
        ends.append((use, max(waited, at_load + latency - (use - load) * per_instruction)))
    return ends[-1][1] if ends else 0.0


def _macs(item: Instruction) -> int:
    if item.name == "IGMMA":
        shape = re.search(r"64x(\d+)x32", item.opcode)
        return _MACS["IGMMA"] * int(shape[1]) if shape else 0
    return _MACS.get(item.name, 0)


def _l1_bytes(item: Instruction) -> int:
    if item.name == "LDSM":
        return 16 if item.opcode.endswith("4") else 8 if item.opcode.endswith("2") else 4
    return width_of(item) // 8 if item.name in ("LDG", "LDS", "STS", "LDGSTS") else 0
