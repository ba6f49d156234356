"""The hot loop of a function, and what its instructions are."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from .disassembly import INSTRUCTION_BYTES, Function, Instruction

# Execution pipes by the first part of the opcode. A multiprocessor of every target issues four instructions a
# clock; ALU runs at half that rate on 8.0 and 9.0. MOV-like IMADs are counted where they run.
_PIPES = {
    "ALU": "LOP3 PLOP3 SHF SHL SHR SEL ISETP IADD3 IADD LEA PRMT IMNMX VIMNMX VIMNMX3 IABS FSETP FSEL FMNMX "
    "FMNMX3 MOV SGXT BMSK VIADD VIADDMNMX VABSDIFF P2R R2P FCHK",
    "FMA": "FFMA FADD FMUL IMAD HFMA2 HADD2 HMUL2 HSET2 HSETP2 HMNMX2 IDP FFMA2 FADD2 FMUL2",
    "TENSOR": "IMMA HMMA BMMA QMMA",
    "MEMORY": "LDG LDS LDSM STG STS LDGSTS SHFL LD ST LDL STL LDC ATOM ATOMG ATOMS RED CCTL",
    "XU": "POPC MUFU I2F F2I F2F I2I FLO BREV I2FP F2FP",
    "CONTROL": "BRA BRX BRXU BAR BSSY BSYNC BREAK EXIT CALL RET NOP WARPSYNC LDGDEPBAR DEPBAR ERRBAR MEMBAR "
    "CS2R S2R VOTE VOTEU NANOSLEEP YIELD WARPGROUP ENDCOLLECTIVE ACQBULK PREEXIT",
}
PIPE_OF = {opcode: pipe for pipe, opcodes in _PIPES.items() for opcode in opcodes.split()}


@dataclass(frozen=True)
class Loop:
    body: tuple[Instruction, ...]

    def count(self, prefix: str) -> int:
        """Instructions whose opcode is `prefix`, or goes on with a modifier after it."""
        return sum(f"{item.opcode}.".startswith(f"{prefix}.") for item in self.body)

    def pipes(self) -> Counter[str]:
        """Instructions per pipe; the uniform datapath, which needs no lanes, is one of its own."""
        return Counter(pipe(item) for item in self.body)

    def calls(self) -> int:
        """Calls of out-of-line code.

        Two that ptxas makes on sm_80 are none, as a warp does not repeat them: one over the branch behind it
        leaves the loop, and one that BRA.CONV jumps over brings lanes together that had parted.
        """
        skipped = [
            range(item.address, item.target)
            for item in self.body
            if item.opcode in ("BRA.CONV", "BRA.DIV") and item.target is not None
        ]
        return sum(
            item.name == "CALL"
            and item.target != item.address + 2 * INSTRUCTION_BYTES
            and not any(item.address in places for places in skipped)
            for item in self.body
        )

    def loads_under_way(self) -> float:
        """Loads of weights that a warp has issued and not used, the mean over the loop's instructions.

        The loop goes round twice; what the first turn has issued is there for the second.
        """
        under_way: dict[int, range] = {}  # by place, the registers that a load fills
        counts: list[int] = []
        for _ in range(2):
            counts.clear()
            for place, item in enumerate(self.body):
                used = _registers(item)
                under_way = {
                    at: filled for at, filled in under_way.items() if at == place or used.isdisjoint(filled)
                }
                if _is_stream(item):
                    first = int(re.findall(r"R(\d+)", item.operands)[0])
                    under_way[place] = range(first, first + width_of(item) // 32)
                counts.append(len(under_way))
        return sum(counts) / len(counts)

    def streams(self) -> list[Instruction]:
        """Loads that pass by the L1 cache: the weights."""
        return [item for item in self.body if _is_stream(item)]


def _is_stream(item: Instruction) -> bool:
    return item.name == "LDG" and ".NA" in item.opcode


def _registers(item: Instruction) -> set[int]:
    """Registers that an instruction names; of a load only its address, for what it fills is not used."""
    operands = item.operands.partition(",")[2] if item.name == "LDG" else item.operands
    return {int(number) for number in re.findall(r"\bR(\d+)", operands)}


def l1_bytes(item: Instruction) -> int:
    """Bytes of a lane that pass L1 or shared memory, or that its banks could have delivered meanwhile.

    Weights pass by. Columns, and scales of tokens, are loaded 128 bits at a time and lie in the order of the
    lanes. What is loaded otherwise meets in banks: planes of columns, and the scales of two rows.
    """
    if item.name not in ("LDG", "LDS", "LDGSTS"):
        return 0
    in_order = width_of(item) == 128 and not item.opcode.endswith(".CONSTANT")
    return width_of(item) // 8 * (1 if item.name != "LDG" or _is_stream(item) or in_order else 2)


def pipe(item: Instruction) -> str:
    known = PIPE_OF.get(item.name)
    if known is not None:
        return known
    return "UNIFORM" if item.name.startswith("U") or item.name in ("R2UR", "S2UR", "LDCU") else "OTHER"


def width_of(load: Instruction) -> int:
    """Bits per lane of a load."""
    for bits in (256, 128, 64):
        if f".{bits}" in load.opcode:
            return bits
    return 32


def loops(function: Function) -> list[Loop]:
    """Every backward branch and what lies between it and its target, where that leads to the branch again.

    It does not where code that waits, placed behind the rest of a kernel, returns to the middle of it.
    """
    found = []
    for last in function.instructions:
        if last.name == "BRA" and last.target is not None and last.target < last.address:
            body = [item for item in function.instructions if last.target <= item.address <= last.address]
            if _turns(body):
                found.append(Loop(tuple(body)))
    return found


def _turns(body: list[Instruction]) -> bool:
    """Whether its first instruction leads to its last one without leaving it."""
    places = {item.address: place for place, item in enumerate(body)}
    reached: set[int] = set()
    ways = [0]
    while ways:
        place = ways.pop()
        if place in reached or place == len(body):
            continue
        reached.add(place)
        item = body[place]
        if item.name == "BRA" and item.target in places:
            ways.append(places[item.target])
        if item.falls_through:
            ways.append(place + 1)
    return len(body) - 1 in reached


def hot_loops(function: Function, marker: str) -> list[Loop]:
    """The innermost loops with the instruction `marker`, of several that overlap the shortest.

    What a loop has around another one runs once for many turns of that, and code that several loops share
    after a branch belongs to the one that turns in it.
    """
    found: list[Loop] = []
    for loop in sorted(loops(function), key=lambda item: len(item.body)):
        first, last = loop.body[0].address, loop.body[-1].address
        apart = all(other.body[-1].address < first or last < other.body[0].address for other in found)
        if apart and loop.count(marker):
            found.append(loop)
    return sorted(found, key=lambda item: item.body[0].address)
