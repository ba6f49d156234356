"""What a plan knows of the compiled loops (csrc/cuda/plan/cost.cpp), against the committed report of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cuda_report import __main__ as report  # noqa: E402
from cuda_report import static  # noqa: E402
from cuda_report.gpus import DEPENDENT_CLOCKS, GPUS, L1_BYTES_PER_CLOCK  # noqa: E402
from cuda_report.kernels import FORMS  # noqa: E402
from cuda_report.occupancy import occupancy  # noqa: E402

SOURCE = (ROOT / "csrc" / "cuda" / "plan" / "cost.cpp").read_text()
WEIGHTS = 16 * 1024  # that `clocks` is for
ALU_LANES, ISSUED = 64, 128  # thread instructions of a multiprocessor and clock
_ANY = GPUS[0]  # all have as many registers
TABLES = {
    "kWhole": "gemv_whole<(Form){form}, {tiles}>",
    "kByRow": "gemv_by_row<(Form){form}, {tiles}>",
    "kBy128": "gemv_grouped<(Form){form}, {tiles}, false>",
    "kBy128Pairs": "gemv_pairs<(Form){form}, {tiles}>",
    "kBy32": "gemv_grouped<(Form){form}, {tiles}, true>",
}


def rows(table: str) -> dict[str, tuple[int, int, int, int]]:
    """By kernel: warps, loaded, idle, clocks."""
    body = re.search(rf"constexpr Loop {table}\[\]\[2\] = (\{{.*?\n\}});", SOURCE, re.DOTALL)
    assert body is not None
    text = re.sub(r"//.*", "", body[1])
    # {{a, b, c, d}, {}} or {}: what is within the outer braces is a form.
    forms = re.findall(r"\{(?:\{[^{}]*\}(?:, \s*\{[^{}]*\})*)?\}", text[1:])
    assert len(forms) == len(FORMS)
    found = {}
    for form, both in enumerate(forms):
        for tiles, loop in enumerate(re.findall(r"\{([\d, ]+)\}", both), 1):
            warps, loaded, idle, clocks = map(int, loop.split(","))
            found[TABLES[table].format(form=form, tiles=tiles)] = (warps, loaded, idle, clocks)
    return found


@pytest.fixture(scope="module")
def entries() -> dict[str, list[static.Entry]]:
    document = json.loads((report.RESULTS / "cuda_report.json").read_text())
    found: dict[str, list[static.Entry]] = {}
    for values in document["static"]:
        entry = static.from_dict(values)
        found.setdefault(entry.kernel, []).append(entry)
    return found


@pytest.mark.parametrize("table", TABLES)
def test_loops_are_those_of_the_report(entries: dict[str, list[static.Entry]], table: str) -> None:
    """Every number lies within what the targets differ by, and a tenth."""
    known = rows(table)
    assert set(known) == {name for name in entries if re.fullmatch(_pattern(TABLES[table]), name)}
    for kernel, (warps, loaded, idle, clocks) in known.items():
        loads, resident, idles, busy = set(), [], [], []
        for entry in entries[kernel]:
            loop = entry.worst
            assert loop is not None
            loads.add(loop.loaded)
            resident.append(occupancy(_ANY, entry.registers, 0, 32).warps // 4 * 4)
            idles.append(DEPENDENT_CLOCKS * loop.instructions * max(0.0, 1 - loop.under_way / loop.loaded))
            of_lanes = loop.per_weight / ISSUED, loop.pipes["ALU"] / ALU_LANES
            busy.append(WEIGHTS * max(*of_lanes, loop.l1_per_weight / L1_BYTES_PER_CLOCK))
        assert loaded in loads, (kernel, loaded, loads)
        assert min(resident) <= warps <= max(resident), (kernel, warps, resident)
        assert 0.9 * min(idles) <= idle <= 1.1 * max(idles), (kernel, idle, idles)
        assert 0.9 * min(busy) <= clocks <= 1.1 * max(busy), (kernel, clocks, busy)


def _pattern(name: str) -> str:
    return re.escape(name).replace(re.escape("{form}"), r"\d").replace(re.escape("{tiles}"), r"\d")
