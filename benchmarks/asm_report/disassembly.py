"""Functions of a shared library and their innermost loops, from objdump."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
_INSTRUCTION = re.compile(r"^ +([0-9a-f]+):\t(?:\{\w+\} )?(\S+) *(.*)$")
_TARGET = re.compile(r"^([0-9a-f]+) <")


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a jump goes; None of anything else."""
        found = _TARGET.match(self.operands) if self.opcode.startswith("j") else None
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class Function:
    """Name as the compiler's demangler writes it."""

    name: str
    body: tuple[Instruction, ...]

    def innermost_loops(self) -> Iterator[tuple[Instruction, ...]]:
        """What lies between a backward jump and its target, where no other backward jump lies within."""
        spans = [(i.target, i.address) for i in self.body if i.target is not None and i.target < i.address]
        for start, end in spans:
            inner = any(start <= a and b <= end for a, b in spans if (a, b) != (start, end))
            if not inner:
                yield tuple(i for i in self.body if start <= i.address <= end)


def functions(library: Path) -> Iterator[Function]:
    """Every function of the library, in order of address.

    Raises:
        FileNotFoundError: no objdump (binutils) on this machine.
    """
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", "--wide", str(library)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, body = "", list[Instruction]()
    for line in text.splitlines():
        if head := _FUNCTION.match(line):
            if body:
                yield Function(name, tuple(body))
            name, body = head[1], []
        elif found := _INSTRUCTION.match(line):
            body.append(Instruction(int(found[1], 16), found[2], found[3]))
    if body:
        yield Function(name, tuple(body))
