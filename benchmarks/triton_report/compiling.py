"""One launch of a kernel, compiled ahead of time and taken apart."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from cuda_report.disassembly import Function, only_kernel
from cuda_report.loops import Loop, hot_loops
from lowbit.triton_kernels.compiled import Launch

from .source import gpu_of, source_of
from .targets import Target

# What multiplies weights: tensor cores, else, in `exact`, plain cores.
MARKERS = ("IMMA", "IGMMA", "HMMA", "HGMMA", "QMMA", "OMMA", "UTCIMMA", "UTCHMMA", "FFMA", "FFMA2", "FADD")


@dataclass(frozen=True)
class Entry:
    """A launch on a target.

    Attributes:
        refused: why there is no usable code: the compiler's reason, or that it spills on a target that is too
            old; the figures are 0 then.
        registers: of a thread. spills: bytes of stack, on AMD spilled registers.
        shared: bytes of a block, as launched.
        per_weight: thread instructions of the hot loops, one for each digit of a weight, by weights; None
            where there are no weights or no disassembler.
        calls: out-of-line code called in hot loops.
    """

    launch: str
    target: str
    refused: str = ""
    registers: int = 0
    spills: int = 0
    shared: int = 0
    per_weight: float | None = None
    calls: int = 0

    @property
    def key(self) -> str:
        return f"{self.launch} on {self.target}"


def entry(launch: Launch, target: Target) -> Entry:
    """Compiles, or says why that is not possible."""
    try:
        compiled = compile_launch(launch, target)
    except Exception as error:  # of any of the stages of the compiler
        last = [line.strip() for line in str(error).splitlines() if line.strip()][-1:]
        return Entry(launch.name, target.name, refused=": ".join([type(error).__name__, *last])[:200])
    if target.backend == "hip":
        return _amd(launch, target, compiled)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        function = only_kernel(cubin, int(target.architecture))
    loops = hot(function) if launch.weights else []
    count = sum(len(loop.body) for loop in loops)
    return Entry(
        launch=launch.name,
        target=target.name,
        registers=function.registers,
        spills=function.stack,
        shared=compiled.metadata.shared,
        per_weight=round(32 * launch.options["num_warps"] * count / launch.weights, 4) if loops else None,
        calls=sum(loop.calls() for loop in loops),
    )


def hush() -> None:
    """The compiler prints what it refuses, whole, past Python's streams."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def compile_launch(launch: Launch, target: Target) -> Any:
    """What triton.compile returns."""
    return triton.compile(source_of(launch), target=gpu_of(target), options=dict(launch.options))


def hot(function: Function) -> list[Loop]:
    """The loops that multiply: those with the first of MARKERS that any loop has."""
    return next((found for marker in MARKERS if (found := hot_loops(function, marker))), [])


def _amd(launch: Launch, target: Target, compiled: Any) -> Entry:
    def figure(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", compiled.asm["amdgcn"])[-1])

    return Entry(
        launch=launch.name,
        target=target.name,
        registers=figure("vgpr_count"),
        spills=figure("vgpr_spill_count") + figure("sgpr_spill_count"),
        shared=compiled.metadata.shared,
    )
