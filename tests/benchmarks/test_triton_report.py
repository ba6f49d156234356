"""The compiled Triton kernels against benchmarks/results/triton_report.json, and the report's own rules."""

from __future__ import annotations

import json
import re
from concurrent.futures import Executor
from dataclasses import replace
from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from cuda_report.disassembly import Function, Instruction
from cuda_report.loops import loops
from lowbit.formats import PRECISIONS
from lowbit.triton_kernels.launch import dry_run
from triton_report import static
from triton_report.__main__ import RESULTS
from triton_report.compiling import Entry, compile_launch

from tests.ops import cases
from tests.triton import bits, codebook

KINDS_OF_BITS = ("signs", "onebit", "mos", "planes")

# Each form of a hot loop, with each kind of instruction that multiplies matrices.
TARGETS = ("sm_80", "sm_90", "sm_100")
WATCHED = (
    "signs, BinaryMoS, high, 8 tokens",
    "planes, W4 g128, high, 8 tokens",
    "signs, g128, fast, many tokens",
    "scalar, 3 bits, high, narrow",
    "vector, 1 x 8, high, narrow",
)
# A scalar register was spilled where row scales came in two parts.
WATCHED_ON_AMD = ("planes, W8 g128, fast, 8 tokens", "gfx942")


@pytest.fixture(scope="module")
def committed() -> list[Entry]:
    document = json.loads((RESULTS / "triton_report.json").read_text())
    return [Entry(**values) for values in document["static"]]


def test_no_worse_than_committed(committed: list[Entry], compilers: Executor) -> None:
    """5 % more instructions per weight, a spill, a CALL in a hot loop, or a refusal."""
    some = [*product(WATCHED, TARGETS), WATCHED_ON_AMD]
    now = list(compilers.map(static.compile_one, *zip(*some, strict=True)))
    assert static.regressions(committed, now) == []


@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_one_token_and_one_output_compile(target: str, compilers: Executor) -> None:
    """Triton makes constants of integers that are 1, on which tensors' methods fail."""
    assert compilers.submit(static.unreadable_with_ones, target).result() == []


def test_the_report_is_complete_and_clean(committed: list[Entry]) -> None:
    wanted = {(name, target.name) for target in static.TARGETS.values() for name in static.names(target)}
    assert {(item.launch, item.target) for item in committed} == wanted
    assert static.regressions(committed, committed) == []


def test_every_kernel_is_in_the_report() -> None:
    """Those that operators launch, for few tokens and many, with and without splits."""
    launched = set()
    for kind, precision, tokens in product(cases.KINDS, PRECISIONS, (1, 40)):
        layer = (bits if kind in KINDS_OF_BITS else codebook).make(kind, 32, 4096)
        with dry_run() as launches:
            layer.native(torch.empty(tokens, 4096, device="meta"), precision)
        launched |= {launch.kernel for launch in launches}
    for target in static.TARGETS.values():
        assert {launch.kernel.__name__ for launch in static.launches(target).values()} == launched


def _code(target: str, kind: str) -> str:
    chosen = static.TARGETS[target]
    launch = static.launches(chosen)["signs, BinaryMoS, fast, 8 tokens"]
    return str(compile_launch(launch, chosen).asm[kind])


def test_subnormal_floats_are_kept(compilers: Executor) -> None:
    """Sums of whole rows in `fast` are read as such."""
    ptx, amd = compilers.map(_code, ("sm_90", "gfx942"), ("ptx", "amdgcn"))
    assert "fma.rn.f32" in ptx
    assert ".ftz" not in ptx
    (kept,) = re.findall(r"float_denorm_mode_32 (\d)", amd)
    assert kept == "3"  # in and out


def test_regressions_are_found(committed: list[Entry]) -> None:
    was = next(item for item in committed if item.per_weight and item.target == "sm_90")
    assert was.per_weight is not None

    def found(**changes: object) -> list[str]:
        return static.regressions(committed, [replace(was, **changes)])

    assert found(per_weight=was.per_weight * 1.04) == []
    for changes in (
        {"per_weight": was.per_weight * 1.06},
        {"per_weight": None},
        {"spills": 8},
        {"shared": 228 << 10},
        {"calls": 1},
        {"refused": "x"},
        {"launch": "new"},
    ):
        assert len(found(**changes)) == 1, changes
    for target in ("sm_75", "gfx942"):
        old = next(item for item in committed if item.target == target and not item.refused)
        assert len(static.regressions(committed, [replace(old, spills=8)])) == 1
        assert len(static.regressions(committed, [replace(old, shared=65 << 10)])) == 1


def test_what_a_gpu_too_old_refuses(committed: list[Entry], compilers: Executor) -> None:
    """Code that spills is none there, and has a reason."""
    old = [item for item in committed if item.target == "sm_75"]
    vectors = [item for item in old if item.launch.startswith("vector") and "exact" not in item.launch]
    assert all("registers are spilled" in item.refused for item in vectors)
    assert all(item.refused or not item.spills for item in old)
    spilled = compilers.submit(static.compile_one, "vector, 1 x 8, high, narrow", "sm_75").result()
    assert "bytes of registers are spilled" in spilled.refused
    good = next(item for item in old if not item.refused)
    assert static.refuse(good) == good
    assert "shared memory" in static.refuse(replace(good, shared=65 << 10)).refused


def test_code_that_waits_is_no_loop() -> None:
    """Behind the end of a kernel a wait that failed is repeated, and returns to the middle of the loop."""

    def code(*lines: tuple[str, str, str]) -> Function:
        body = [Instruction(16 * place, *line) for place, line in enumerate(lines)]
        return Function("f", 100, body, 1, 0, 0)

    found = loops(
        code(
            ("", "UTCHMMA", ""),
            ("@!P0", "BRA", "0x50"),
            ("", "FADD", ""),
            ("@P1", "BRA", "0x0"),
            ("", "EXIT", ""),
            ("", "SYNCS", ""),
            ("@!P0", "BRA", "0x50"),
            ("", "BRA", "0x20"),
        )
    )
    assert [(loop.body[0].address, loop.body[-1].address) for loop in found] == [(0x00, 0x30), (0x50, 0x60)]
    # The same where the branch that ends the loop names its condition behind the opcode.
    (uniform,) = loops(code(("", "BRA.U", "UP0, 0x30"), ("", "NOP", ""), ("", "BRA.U", "!UP1, 0x0")))
    assert len(uniform.body) == 3
