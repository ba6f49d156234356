"""No kind of launch that may be picked spills registers: benchmarks/results/triton_sweep.json."""

from __future__ import annotations

from concurrent.futures import Executor

import pytest

pytest.importorskip("triton")

from triton_report.kinds import kinds
from triton_report.static import TARGETS
from triton_report.sweep import SWEPT, Row, code_of, committed, problems, row_of

ROWS = committed()


def test_every_kind_was_compiled() -> None:
    """Another tile, or another kind, is not in the file: make triton-sweep."""
    wanted = {(target, kind) for target in SWEPT for kind in kinds(TARGETS[target])}
    assert {(row.target, row.kind) for row in ROWS} == wanted


def test_nothing_that_is_picked_spills() -> None:
    assert list(problems(ROWS)) == []


def test_codes_are_those_of_the_kernels(compilers: Executor) -> None:
    """Of every kind, as Triton reads it for one of its targets; two are compiled anew."""
    of_kinds: dict[str, list[Row]] = {}
    for row in ROWS:
        of_kinds.setdefault(row.kind, []).append(row)
    some = [rows[place % len(rows)] for place, rows in enumerate(of_kinds.values())]
    codes = compilers.map(code_of, *zip(*[row[:2] for row in some], strict=True), chunksize=20)
    changed = [row[:2] for row, code in zip(some, codes, strict=True) if code != row.code]
    assert changed == []
    # What is read is the same for all targets.
    assert all(len({row.code for row in rows}) == 1 for rows in of_kinds.values())
    few = [ROWS[0], ROWS[-1]]
    assert list(compilers.map(row_of, *zip(*[row[:2] for row in few], strict=True))) == few


def test_problems_are_found() -> None:
    good = Row("sm_80", "a kind", "0", 168, 0, 65536, 0.5, "")
    assert list(problems([good])) == []
    for bad in (good._replace(spills=8), good._replace(shared=164 << 10), good._replace(refused="no")):
        assert len(list(problems([good, bad]))) == 1
