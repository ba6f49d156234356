"""The compiled kernels against benchmarks/results/cuda_report.json, and the report's own tools."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.native import without_cuda

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cuda_report import __main__ as report  # noqa: E402
from cuda_report import cases, codebooks, static  # noqa: E402
from cuda_report.disassembly import Function, Instruction, tool  # noqa: E402
from cuda_report.estimate import Work, estimate, rates, wave  # noqa: E402
from cuda_report.gpus import ARRIVAL_NS, DEPENDENT_CLOCKS, DRAM_EFFICIENCY, GPUS, Gpu  # noqa: E402
from cuda_report.kernels import find  # noqa: E402
from cuda_report.loops import Loop, hot_loops, l1_bytes, pipe, width_of  # noqa: E402
from cuda_report.occupancy import Occupancy, occupancy  # noqa: E402
from cuda_report.plans import BitsCase, Planner  # noqa: E402

A100 = GPUS[0]


def _needs_library() -> Path:
    if without_cuda:
        pytest.skip(without_cuda)
    try:
        tool("cuobjdump")
        tool("nvdisasm")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return report.LIBRARY


@pytest.fixture(scope="module")
def compiled() -> list[static.Entry]:
    return static.entries(_needs_library(), report.CACHE)


@pytest.fixture(scope="module")
def committed() -> list[static.Entry]:
    document = json.loads((report.RESULTS / "cuda_report.json").read_text())
    return [static.from_dict(values) for values in document["static"]]


@pytest.mark.slow
def test_no_worse_than_committed(compiled: list[static.Entry], committed: list[static.Entry]) -> None:
    """5 % more instructions per weight, a spill, a CALL, a missing opcode or a narrower load."""
    assert static.regressions(committed, compiled) == []


@pytest.mark.slow
def test_every_target_has_every_kernel(compiled: list[static.Entry]) -> None:
    by_kernel: dict[str, set[int]] = {}
    for entry in compiled:
        by_kernel.setdefault(entry.kernel, set()).add(entry.target)
    assert all(targets == {80, 90, 100, 120} for targets in by_kernel.values())
    assert len(by_kernel) <= 100


@pytest.mark.slow
def test_estimates_are_those_of_the_plan(compiled: list[static.Entry]) -> None:
    known = {(entry.kernel, entry.target): entry for entry in compiled}
    planner = Planner(_needs_library())
    row = cases.one(planner, known, cases.CASES[0], 8192, 8192, 1, A100)
    assert row is not None
    assert row.blocks * row.warps >= A100.multiprocessors
    assert row.share < row.stream <= DRAM_EFFICIENCY
    assert row.us < row.call_us


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_vector_codebooks_beside_dequantising(compiled: list[static.Entry], gpu: Gpu) -> None:
    """Up to 16 tokens never slower, where the fp16 weight goes through DRAM."""
    planner = Planner(_needs_library())
    for tokens in (1, 4, 8, 16):
        assert min(cases.against_dequantizing(planner, compiled, tokens, gpu).values()) >= 1, tokens


def test_codebooks_are_estimated(compiled: list[static.Entry]) -> None:
    """Every case on every GPU, at no more than memory gives; two passes take longer than one."""
    known = {(entry.kernel, entry.target): entry for entry in compiled}
    planner = Planner(_needs_library())
    for case in codebooks.CODEBOOKS:
        for gpu in GPUS:
            few, many = (cases.one(planner, known, case, 8192, 8192, tokens, gpu) for tokens in (1, 64))
            assert few is not None
            assert many is not None
            assert few.share < few.stream <= DRAM_EFFICIENCY + 1e-9
            assert few.us < many.us


def test_many_tokens_are_estimated(compiled: list[static.Entry]) -> None:
    """Every layer on bit tiles on every GPU, no sooner than its products take on all tensor cores."""
    known = {(entry.kernel, entry.target): entry for entry in compiled}
    planner = Planner(_needs_library())
    for case in (case for case in cases.CASES if isinstance(case, BitsCase)):
        columns = 1 if case.precision == "fast" or case.activation_bits else 2
        for gpu in GPUS:
            few, many = (cases.one(planner, known, case, 8192, 8192, tokens, gpu) for tokens in (64, 256))
            assert few is not None
            assert many is not None
            assert few.kernel.startswith("gemm::")
            assert few.us < many.us
            macs = 8192 * 8192 * len(case.digits) * 256 * columns
            assert many.us * 1e3 > macs / (gpu.multiprocessors * gpu.int8_macs * gpu.clock_ghz)


def test_what_l2_keeps() -> None:
    """A weight that DRAM delivers once for two readings has half of it to wait for, and half the share."""
    work = Work(1, 8e6, 1e6, 1e6, 0.0, 0.1, 0.05, 0.0, None, 1e9)
    resident = Occupancy(1, 8, "registers")
    all_of_it, half = (rates(A100, replace(work, from_dram=part), resident, 1)["dram"] for part in (1.0, 0.5))
    assert half == 2 * all_of_it
    found = estimate(A100, replace(work, from_dram=0.5), resident)
    assert found.gbs * found.us == pytest.approx(0.5e6 / 1e3)


def test_loads_behind_the_latency() -> None:
    """A loop that uses at once what it loads still gets a turn's bytes in a latency and a turn."""
    work = Work(1, 8e6, 1e6, 1e6, 0.0, 0.1, 0.05, 0.0, A100.int8_macs, 0.0, loaded=1024, turn=100)
    turn_ns = 100 * DEPENDENT_CLOCKS / A100.clock_ghz
    resident = Occupancy(1, 8, "registers")
    found = rates(A100, work, resident, 1)["flight"]
    assert found == pytest.approx(8 * 1024 / (A100.loaded_latency_ns + turn_ns))
    ahead = rates(A100, replace(work, flight=1024), resident, 1)["flight"]
    assert ahead == pytest.approx(8 * 1024 / A100.loaded_latency_ns)
    further = rates(A100, replace(work, flight=2048), resident, 1)["flight"]
    assert further == pytest.approx(2 * ahead)


def test_a_regression_is_found(committed: list[static.Entry]) -> None:
    assert static.regressions(committed, committed) == []
    at = next(i for i, entry in enumerate(committed) if entry.loops)
    (loop, *rest) = committed[at].loops

    def problems(**changes: object) -> str:
        entry = replace(committed[at], loops=(replace(loop, **changes), *rest))
        return "; ".join(static.regressions(committed, [*committed[:at], entry, *committed[at + 1 :]]))

    assert problems(per_weight=loop.per_weight * 0.9) == ""
    assert "instructions per weight" in problems(per_weight=100.0)
    assert "CALL" in problems(calls=1)
    assert "64 bits" in problems(stream_bits=64)
    spilled = replace(committed[at], spills=8)
    assert "spilled" in static.regressions(committed, [spilled])[0]
    gone = replace(committed[at], loops=())
    assert any("no loop with" in line for line in static.regressions(committed, [gone]))
    assert any("not in the library" in line for line in static.regressions(committed, committed[1:]))


def _code(*lines: str) -> Function:
    body = []
    for index, line in enumerate(lines):
        opcode, _, operands = line.partition(" ")
        body.append(Instruction(16 * index, "", opcode, operands))
    return Function("kernel", 90, body, 32, 0, 0)


def test_hot_loop_is_the_inner_one() -> None:
    function = _code(
        "S2R R0",
        "IADD3 R1",  # 0x10: outer
        "LDG.E.NA.LTC128B.128.CONSTANT R4, [R2]",  # 0x20: inner
        "IMMA.16832.U8.S8 R8",
        "@P0 BRA 0x20",
        "IMMA.16832.S8.S8 R8",
        "BRA 0x10",
        "EXIT",
    )
    function.instructions[4] = Instruction(0x40, "@P0", "BRA", "0x20")
    (loop,) = hot_loops(function, "IMMA.16832.U8.S8")
    assert [item.address for item in loop.body] == [0x20, 0x30, 0x40]
    assert width_of(loop.streams()[0]) == 128
    assert [pipe(item) for item in loop.body] == ["MEMORY", "TENSOR", "CONTROL"]


def test_calls() -> None:
    leaves = _code("CALL.REL.NOINC 0x20", "BRA 0x0")
    converges = _code("BRA.CONV ~URZ, 0x20", "CALL.REL.NOINC 0x990", "BRA 0x0")
    real = _code("CALL.REL.NOINC 0x990", "BRA 0x0")
    counts = [Loop(tuple(code.instructions)).calls() for code in (leaves, converges, real)]
    assert counts == [0, 0, 1]


def test_undeclared_kernel() -> None:
    with pytest.raises(LookupError, match="unheard_of"):
        find("unheard_of<1>")


def test_occupancy() -> None:
    assert occupancy(A100, 32, 0, 256) == Occupancy(8, 64, "warps")
    assert occupancy(A100, 128, 0, 256) == Occupancy(2, 16, "registers")
    assert occupancy(A100, 32, 80 << 10, 256) == Occupancy(2, 16, "shared memory")
    assert occupancy(A100, 32, 0, 32) == Occupancy(32, 32, "blocks")


def test_model_by_hand() -> None:
    """One full wave that DRAM bounds, then half of one that what is in flight bounds."""
    blocks = A100.multiprocessors * 2
    work = Work(blocks * 3 // 2, 8e6, 1e6, 1e6, 0.1, 0.1, 0.05, 8.0, A100.int8_macs, 4096)
    found = estimate(A100, work, Occupancy(2, 16, "registers"))
    dram = A100.dram_gbs * DRAM_EFFICIENCY
    half = min(dram, A100.multiprocessors * 8 * 4096 / A100.loaded_latency_ns)
    expected = 1e6 * 2 / 3 / dram + 1e6 / 3 / half
    assert found.stream == pytest.approx(1e6 / expected / A100.dram_gbs)
    assert found.bound == "dram"
    assert found.waves == pytest.approx(1.5)
    columns = estimate(A100, replace(work, cached=4e6), Occupancy(2, 16, "registers"))
    assert columns.bound == "cache"
    assert estimate(A100, replace(work, l1=9.0), Occupancy(2, 16, "registers")).bound == "l1"
    together = estimate(A100, replace(work, splits=2), Occupancy(2, 16, "registers"))
    assert together.us == pytest.approx(found.us + ARRIVAL_NS / 1e3)
    assert together.stream == found.stream


def test_the_busiest_multiprocessor_decides() -> None:
    """One block more than there are multiprocessors, where nothing that all share counts: twice the time."""
    work = Work(A100.multiprocessors, 8e6, 1e6, 1e6, 0.0, 0.1, 0.05, 800.0, A100.int8_macs, 1 << 20)
    more = replace(work, blocks=work.blocks + 1, bytes=work.bytes * (1 + 1 / work.blocks))
    of_one, of_two = (wave(A100, item, Occupancy(1, 8, "registers"), item.blocks)[0] for item in (work, more))
    assert of_two == pytest.approx(2 * of_one, rel=0.01)  # of one whose share is a hundredth smaller


def test_loads_under_way() -> None:
    """Two loads of four registers: one is used at once, the other one in the next turn."""
    body = _code(
        "LDG.E.NA.LTC128B.128.CONSTANT R4, [R2]",
        "LOP3.LUT R20, R13, 0x1, RZ",  # of the turn before
        "LDG.E.NA.LTC128B.128.CONSTANT R12, [R2+0x200]",
        "IMMA R8, R4.ROW, R9.COL, R8",
    )
    assert Loop(tuple(body.instructions)).loads_under_way() == (2 + 1 + 2 + 1) / 4


def test_bytes_of_l1() -> None:
    loads = _code(
        "LDG.E.NA.LTC128B.128.CONSTANT R4, [R2]",
        "LDG.E.128 R8, [R2]",
        "LDG.E.128.CONSTANT R8, [R2]",
        "LDG.E.64 R8, [R2]",
        "LDS.128 R8, [R2]",
        "IMMA R8",
    )
    assert [l1_bytes(item) for item in loads.instructions] == [16, 16, 32, 16, 16, 0]
