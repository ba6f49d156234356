"""One entry per kernel and target of the library: what is in the compiled code."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .disassembly import Function, Instruction, functions
from .gpus import RESERVED_SHARED
from .kernels import Kernel, find
from .loops import Loop, hot_loops, l1_bytes, width_of


@dataclass(frozen=True)
class HotLoop:
    """Per iteration; the rates are thread instructions per weight."""

    instructions: int
    weights: float
    calls: int
    stream_loads: int  # of weights
    stream_bits: int  # of the narrowest of them, per lane
    per_weight: float
    under_way: float  # bytes of weights that a warp has asked for and not used, on average
    l1_per_weight: float  # bytes, as loops.l1_bytes() counts them
    pipes: dict[str, float]

    @property
    def loaded(self) -> int:
        """Bytes of weights that a warp loads."""
        return self.stream_loads * 32 * self.stream_bits // 8


@dataclass(frozen=True)
class Entry:
    kernel: str
    title: str
    target: int
    registers: int
    shared: int
    spills: int  # bytes of stack
    opcodes: int  # required instructions in the hot loops
    loops: tuple[HotLoop, ...]

    @property
    def worst(self) -> HotLoop | None:
        """The hot loop with most instructions per weight: scales of several dtypes have one each."""
        return max(self.loops, key=lambda loop: loop.per_weight, default=None)

    @property
    def key(self) -> str:
        return f"{self.kernel} sm_{self.target}"


def entries(library: Path, cache: Path | None = None) -> list[Entry]:
    """All kernels of the library; from `cache`, a folder, where this code has looked at this very file."""
    known = None
    if cache is not None:
        sources = sorted(Path(__file__).parent.glob("*.py"))
        key = hashlib.sha256(b"".join(path.read_bytes() for path in (library, *sources)))
        known = cache / f"{key.hexdigest()[:16]}.json"
    if known is not None and known.exists():
        return [from_dict(values) for values in json.loads(known.read_text())]
    found = functions(library, lambda name: find(name).opcode is not None)
    result = [_entry(function, find(function.name)) for function in found]
    if known is not None:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps([asdict(entry) for entry in result]))
    return result


def _entry(function: Function, kernel: Kernel) -> Entry:
    loops = hot_loops(function, kernel.opcode) if kernel.opcode else []
    return Entry(
        kernel=function.name,
        title=kernel.title,
        target=function.target,
        registers=function.registers,
        # What the system takes of it on newer targets is counted there, and for all in the occupancy.
        shared=max(0, function.shared - (RESERVED_SHARED if function.target >= 90 else 0)),
        spills=function.stack,
        opcodes=sum(loop.count(kernel.opcode or "") for loop in loops),
        loops=tuple(_hot_loop(loop, kernel) for loop in loops),
    )


def _hot_loop(loop: Loop, kernel: Kernel) -> HotLoop:
    streams = loop.streams()
    weights = loop.count(kernel.opcode or "") * kernel.weights
    if streams and kernel.digits:
        # Code for the last, shorter turn may lie in the loop as well: what is loaded decides.
        loaded = len(streams) * 32 * width_of(streams[0]) // 8
        weights = loaded * 2 ** math.floor(math.log2(weights / loaded))
    return HotLoop(
        instructions=len(loop.body),
        weights=weights,
        calls=loop.calls(),
        stream_loads=len(streams),
        stream_bits=min((width_of(load) for load in streams), default=0),
        per_weight=round(32 * len(loop.body) / weights, 4),
        under_way=round(loop.loads_under_way() * 32 * (width_of(streams[0]) // 8 if streams else 0)),
        l1_per_weight=round(32 * sum(_l1_bytes(item, kernel, streams) for item in loop.body) / weights, 4),
        pipes={pipe: round(32 * count / weights, 4) for pipe, count in sorted(loop.pipes().items())},
    )


def _l1_bytes(item: Instruction, kernel: Kernel, streams: list[Instruction]) -> int:
    columns = item.name == "LDG" and item not in streams
    return 0 if columns and kernel.counts_columns else l1_bytes(item)


def from_dict(values: dict[str, Any]) -> Entry:
    loops = tuple(HotLoop(**loop) for loop in values["loops"])
    return Entry(**{**values, "loops": loops})


def regressions(before: list[Entry], now: list[Entry], slack: float = 0.05) -> list[str]:
    """What got worse, or breaks a rule that holds always; one sentence each."""
    found = []
    old = {entry.key: entry for entry in before}
    for entry in now:
        kernel = find(entry.kernel)
        if entry.spills:
            found.append(f"{entry.key}: {entry.spills} bytes of registers are spilled")
        if kernel.opcode is None or entry.target in kernel.absent:
            continue
        if not entry.loops:
            found.append(f"{entry.key}: no loop with {kernel.opcode}")
            continue
        if any(loop.calls for loop in entry.loops):
            found.append(f"{entry.key}: CALL in a hot loop")
        if entry.key not in old:
            found.append(f"{entry.key}: not in the committed report (make cuda-report writes it)")
            continue
        was, worst = old[entry.key].worst, entry.worst
        assert was is not None
        assert worst is not None
        if worst.per_weight > was.per_weight * (1 + slack):
            found.append(
                f"{entry.key}: {worst.per_weight} thread instructions per weight, not {was.per_weight}"
            )
        if min(loop.stream_bits for loop in entry.loops) < min(
            loop.stream_bits for loop in old[entry.key].loops
        ):
            found.append(f"{entry.key}: weights are loaded {worst.stream_bits} bits at a time")
    missing = old.keys() - {entry.key for entry in now}
    found += [f"{key}: in the committed report, not in the library" for key in sorted(missing)]
    return found
