"""Writes benchmarks/results/asm_report.md for the library that `make build` has made.

PYTHONPATH=benchmarks python -m asm_report [--library FILE] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lowbit
from lowbit._build import build_record
from report import markdown_table

from asm_report.cases import CASES, Loop, find
from asm_report.disassembly import functions

LIBRARY = Path(lowbit.__file__).parent / "lib" / "liblowbit.so"
REPORT = "asm_report.md"
# The prediction's machine: what one core of a Zen 4 or Golden Cove server does, at a clock both reach.
CLOCK_GHZ, CORES = 3.6, 2
PER_CYCLE = 4  # instructions of this mix; the front ends allow 6
PRODUCTS_PER_CYCLE = {"amx": 1 / 16, "avx512": 1, "avxvnni": 2, "avx2": 2}
SQUARE = 4096 * 4096


def predicted_us(loop: Loop) -> float:
    """Microseconds for 4096 x 4096 on two cores, weights in their caches: instructions or products decide."""
    cycles = max(loop.per_weight / PER_CYCLE, loop.floor / PRODUCTS_PER_CYCLE[loop.case.isa])
    return SQUARE * cycles / (CLOCK_GHZ * CORES * 1e3)


def compiler() -> str:
    return f"Compiled with {build_record().get('compiler')}."


def document(loops: list[Loop]) -> str:
    rows = [
        (
            loop.case.title,
            loop.case.isa,
            loop.instructions,
            loop.products,
            f"{loop.weights:,.0f}",
            f"{loop.per_weight:.4f}",
            f"{loop.floor:.4f}",
            f"{predicted_us(loop):.1f}",
            "" if loop.case.bits is None else f"{loop.case.bits * SQUARE / 8 / predicted_us(loop) / 1e3:.0f}",
        )
        for loop in loops
    ]
    columns = (
        *("loop", "ISA", "instructions", "byte products", "weights a turn"),
        *("instructions/weight", "floor", "predicted us", "predicted GB/s"),
    )
    text = (
        f"{compiler()} Counts of one turn of each innermost loop in the compiled library (objdump), all "
        "columns together. "
        "Floor: the byte products, or look-ups, alone. Predicted: 4096 x 4096 from the caches on "
        f"{CORES} cores of {CLOCK_GHZ} GHz, {PER_CYCLE} instructions a cycle and at most "
        f"{PRODUCTS_PER_CYCLE['avx512']} byte product of 64 bytes or {PRODUCTS_PER_CYCLE['avx2']} of 32, "
        f"or one of tiles in {1 / PRODUCTS_PER_CYCLE['amx']:.0f} cycles; "
        "what it means in GB/s of packed bits: where that is above the memory's, memory is what is left. "
        "An estimate, not a timing: results/kernels.md has those. Loops of tiles also hold what ends "
        "a run, of which a turn executes one form at most, and one of a turn's eight products may lie "
        "outside: their figures tell two builds apart, not how long a turn takes."
    )
    return f"# Hot loops of the CPU kernels\n\n{text}\n\n{markdown_table(columns, rows)}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, default=LIBRARY)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    loops = find(CASES, functions(arguments.library))
    found = {loop.case for loop in loops}
    for case in CASES:
        if case not in found:
            print(f"not found: {case.title} [{case.isa}]", file=sys.stderr)
    path = arguments.results / REPORT
    path.write_text(document(loops), encoding="utf-8")
    print(path)
    return 0 if len(loops) == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
