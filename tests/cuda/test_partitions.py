"""How a plan divides a GEMV, beside every other way to do it, by the report's model of the compiled code."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.emulated.device import BUILD, KIND
from tests.native import needs_emulated

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cuda_report import __main__ as report  # noqa: E402
from cuda_report import cases, static  # noqa: E402
from cuda_report.estimate import Estimate  # noqa: E402
from cuda_report.gpus import GPUS, Gpu  # noqa: E402
from cuda_report.kernels import find  # noqa: E402
from cuda_report.plans import BitsCase, Planner  # noqa: E402

pytestmark = needs_emulated
BITS = {case.title: case for case in cases.CASES if isinstance(case, BitsCase)}
# What a plan is told of an H200 is all the same as of an H100, so it cannot know its memory.
KNOWN = {gpu.name: gpu for gpu in GPUS if gpu.name != "H200"}


@dataclass(frozen=True)
class Problem:
    """A layer for `tokens` tokens on a GPU, the plan for it, and the kernel's compiled code."""

    case: BitsCase
    shape: tuple[int, int]
    tokens: int
    gpu: Gpu
    plan: dict[str, Any]
    entry: static.Entry

    @property
    def parts(self) -> int:
        return self.plan["input_warps"] * self.plan["splits"]

    @property
    def grouped(self) -> bool:
        return self.case.group_size != -1 or self.case.precision == "fast"

    @property
    def estimate(self) -> Estimate:
        known = {(self.entry.kernel, self.entry.target): self.entry}
        done = cases.bits(self.case, self.plan, known, *self.shape, self.tokens, self.gpu)
        assert done is not None
        return done.found

    def others(self) -> Iterator[Problem]:
        """With every partition that the kernel takes (csrc/cuda/bits/gemv_block.h)."""
        kernel = find(self.entry.kernel)
        rows = 16 * kernel.row_tiles
        spans = -(-self.shape[1] // cases.SPAN_INPUTS)
        columns = min(self.plan["columns"], cases.GEMV_COLUMNS)
        most_splits = 1 if self.plan["kernel"] == "b1_gemv" else min(16, -(-spans // 2))
        for splits in range(1, most_splits + 1):
            for input_warps in (warps for warps in (1, 2, 4, 8) if warps * splits <= spans):
                buffers = 2 if spans > splits * input_warps else 1
                even = -(-columns // 2) * 2
                shared = buffers * even * input_warps * cases.SPAN_INPUTS if kernel.chunks else 0
                for row_warps in range(1, 8 // input_warps + 1):
                    partition = {
                        "row_warps": row_warps,
                        "input_warps": input_warps,
                        "splits": splits,
                        "blocks": -(-self.shape[0] // (rows * row_warps)) * splits,
                        "shared_bytes": shared,
                    }
                    if shared <= 96 << 10:
                        yield Problem(
                            self.case, self.shape, self.tokens, self.gpu, self.plan | partition, self.entry
                        )


@pytest.fixture(scope="module")
def entries() -> dict[tuple[str, int], static.Entry]:
    document = json.loads((report.RESULTS / "cuda_report.json").read_text())
    known = [static.from_dict(values) for values in document["static"]]
    return {(entry.kernel, entry.target): entry for entry in known}


class Problems:
    def __init__(self, entries: dict[tuple[str, int], static.Entry]) -> None:
        self._entries = entries
        self._planner = Planner(BUILD / f"liblowbit_emulated{KIND}.so")

    def __call__(self, case: BitsCase, shape: tuple[int, int], tokens: int, gpu: Gpu) -> Problem | None:
        """None where no GEMV is planned."""
        plan = self._planner.explain(case, *shape, tokens, gpu.architecture, gpu.multiprocessors)
        name = cases.kernel_name(case, plan)
        if name is None or (name, gpu.target) not in self._entries:
            return None
        return Problem(case, shape, tokens, gpu, plan, self._entries[name, gpu.target])


@pytest.fixture(scope="module")
def problems(entries: dict[tuple[str, int], static.Entry]) -> Problems:
    return Problems(entries)


@pytest.mark.parametrize("gpu", KNOWN.values(), ids=lambda gpu: gpu.name)
def test_no_partition_is_much_better(problems: Problems, gpu: Gpu) -> None:
    """On average over layers and tokens. Where sums leave the integers inside a row, all numbers of tokens
    cut it into as many parts: the best for them together."""
    ratios = []
    for case in BITS.values():
        for shape in cases.SHAPES:
            found = [problem for tokens in cases.TOKENS if (problem := problems(case, shape, tokens, gpu))]
            times: list[dict[int, float]] = []
            for problem in found:
                best: dict[int, float] = {}
                for other in problem.others():
                    best[other.parts] = min(best.get(other.parts, math.inf), other.estimate.us)
                times.append(best)
            if found and found[0].grouped:
                parts = min(times[0], key=lambda key: math.prod(best[key] for best in times))
                times = [{parts: best[parts]} for best in times]
            ratios += [
                problem.estimate.us / min(best.values()) for problem, best in zip(found, times, strict=True)
            ]
    assert math.prod(ratios) ** (1 / len(ratios)) <= 1.015
    assert max(ratios) <= 1.25


@pytest.mark.parametrize("gpu", ["A100", "H100", "RTX 4090"])
@pytest.mark.parametrize(
    "title",
    [
        "BinaryMoS, 4 experts, high",
        "BinaryMoS, 4 experts, fast",
        "signs g128 (Q1_0), high",
        "W2 g128, high",
        "W4 g128, high",
        "W4 g128, fast",
        "W4 rows, high",
    ],
)
def test_memory_is_what_large_layers_wait_for(problems: Problems, title: str, gpu: str) -> None:
    """80 % of its bandwidth while weights stream, for 1 and 8 tokens."""
    for tokens in (1, 8):
        problem = problems(BITS[title], (8192, 8192), tokens, KNOWN[gpu])
        assert problem is not None
        assert problem.estimate.stream >= 0.8


@pytest.mark.parametrize("shape", [(4096, 4096), (14336, 4096), (4096, 14336), (8192, 28672)], ids=str)
@pytest.mark.parametrize("gpu", KNOWN.values(), ids=lambda gpu: gpu.name)
def test_one_token(problems: Problems, shape: tuple[int, int], gpu: Gpu) -> None:
    """Warps are enough to keep memory busy, as far as the kernel's registers and the tiles allow."""
    for digit in (1, 2, 4):
        problem = problems(BitsCase("", (digit,), group_size=128, precision="fast"), shape, 1, gpu)
        assert problem is not None
        best = min(problem.others(), key=lambda other: other.estimate.us)
        assert problem.estimate.us <= 1.12 * best.estimate.us, (problem.plan, best.plan)
