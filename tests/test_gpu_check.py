"""scripts/gpu_check.sh where there is no GPU: its steps, the tests it selects, and what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Does nothing, but for tests, which the real interpreter collects: pytest fails where it selects none.
PYTHON = """#!/bin/sh
case "$*" in
  *"{fails}"*) exit 3 ;;
  "-m pytest"*) exec {python} "$@" --collect-only -q -p no:cacheprovider ;;
  benchmarks/*) test -f "$1" ;;
esac
"""
SANITIZER = """#!/bin/sh
while [ "$1" != "$PYTHON" ]; do shift; done
exec "$@"
"""


def _run(folder: Path, fails: str) -> tuple[int, list[dict[str, object]]]:
    programs = {"python": PYTHON.format(fails=fails, python=sys.executable), "compute-sanitizer": SANITIZER}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHON": f"{folder}/python"}
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh"), str(folder / "out")]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    return done.returncode, json.loads((folder / "out" / "summary.json").read_text())


@pytest.mark.parametrize(("fails", "status"), [("nothing fails", 0), ("torch.cuda.is_available", 3)])
def test_every_step_runs_and_the_worst_is_reported(tmp_path: Path, fails: str, status: int) -> None:
    returned, steps = _run(tmp_path, fails)
    assert returned == status
    named = {str(step["step"]): step for step in steps}
    assert list(named) == [
        *("device", "build", "info", "fragments", "tests", "benchmarks", "memcheck", "racecheck"),
    ]
    assert {name for name, step in named.items() if step["exit"]} == ({"device"} if status else set())
    assert sum(int(str(step["limit"])) for step in steps) < 600
    for name in ("fragments", "tests", "memcheck", "racecheck"):
        assert "tests/" in (tmp_path / "out" / f"{name}.log").read_text()
