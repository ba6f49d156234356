"""The report of compiled loops: it finds every loop it names, and counts them right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from asm_report.__main__ import LIBRARY, REPORT, compiler, document
from asm_report.cases import CASES, Case, find
from asm_report.disassembly import Function, Instruction, functions

from tests.native import needs_native

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / REPORT


@needs_native
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed")
def test_every_hot_loop_is_found():
    loops = find(CASES, functions(LIBRARY))
    assert [loop.case for loop in loops] == list(CASES)
    for loop in loops:
        assert loop.floor < loop.per_weight < 1
    assert document(loops).count("\n| ") == len(CASES) + 2
    committed = COMMITTED.read_text(encoding="utf-8")
    if compiler() not in committed:
        pytest.skip(f"the committed counts are of another compiler; here: {compiler()}")
    assert document(loops) == committed, "make asm-report writes it anew"


def function(*lines):
    """A function of (opcode, operands) pairs, one byte each, at addresses 0, 1, 2, ..."""
    return Function("loop", tuple(Instruction(address, *line) for address, line in enumerate(lines)))


def test_innermost_loops_hold_no_other():
    nested = function(
        ("mov", ""),
        ("add", ""),
        ("jne", "1 <loop+0x1>"),
        ("jne", "0 <loop>"),
        ("je", "9 <loop+0x9>"),
        ("ret", ""),
    )
    assert [[item.address for item in body] for body in nested.innermost_loops()] == [[1, 2]]


def test_weights_of_a_turn_follow_from_its_products():
    body = function(*[("vpdpbusd", "(%rax),%zmm1,%zmm2")] * 8, ("vmovdqu8", ""), ("jne", "0 <loop>"))
    (loop,) = find([Case("", "loop", "avx512", products_per_weight=2, columns=2)], [body])
    assert (loop.instructions, loop.products, loop.weights) == (10, 8, 128)
    assert loop.floor == 8 / 128
    assert find([Case("", "loop", "avx2")], [body]) == []  # its byte products are other instructions
    assert find([Case("", "other", "avx512")], [body]) == []
    assert find([Case("", "loop", "avxvnni")], [body]) == []  # the same instruction, of vectors half as wide
