"""No kind of launch that may be picked spills registers: benchmarks/results/triton_sweep.json."""

from __future__ import annotations

import json
from concurrent.futures import Executor

import pytest

pytest.importorskip("triton")

from triton_report.kinds import kinds
from triton_report.static import TARGETS
from triton_report.sweep import FILE, SWEPT, Row, committed, digest_of_inputs, problems, row_of

ROWS = committed()


def test_every_kind_was_compiled() -> None:
    """Another tile, or another kind, is not in the file: make triton-sweep."""
    wanted = {(target, kind) for target in SWEPT for kind in kinds(TARGETS[target])}
    assert {(row.target, row.kind) for row in ROWS} == wanted


def test_nothing_that_is_picked_spills() -> None:
    assert list(problems(ROWS)) == []


def test_codes_are_those_of_the_kernels(compilers: Executor) -> None:
    """Nothing that they were read from has changed since; two are compiled anew."""
    # What is interpreted does not know how it is compiled.
    inputs = compilers.submit(digest_of_inputs).result()
    assert json.loads(FILE.read_text(encoding="utf-8"))["inputs"] == inputs
    few = [ROWS[0], ROWS[-1]]
    assert list(compilers.map(row_of, *zip(*[row[:2] for row in few], strict=True))) == few


def test_problems_are_found() -> None:
    good = Row("sm_80", "a kind", "0", 168, 0, 65536, 0.5, "")
    assert list(problems([good])) == []
    for bad in (good._replace(spills=8), good._replace(shared=164 << 10), good._replace(refused="no")):
        assert len(list(problems([good, bad]))) == 1
