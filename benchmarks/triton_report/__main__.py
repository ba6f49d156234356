"""Writes benchmarks/results/triton_report.{json,md}. What was compiled before is not compiled again.

So a run that was ended goes on where it was.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import typer
from report import write_json
from rich.progress import track

from . import tables
from .compiling import hush
from .static import TARGETS, Entry, compile_one, names, regressions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / "build" / "triton_report"


def main(results: Path = RESULTS, jobs: int = os.cpu_count() or 1) -> None:
    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE))
    wanted = [(name, target.name) for target in TARGETS.values() for name in names(target)]
    with ProcessPoolExecutor(jobs, initializer=hush) as pool:
        found: list[Entry] = list(track(pool.map(compile_one, *zip(*wanted, strict=True)), total=len(wanted)))
    note = "compiled, never run on a GPU; AMD untested"
    write_json(results / "triton_report.json", {"note": note, "static": found})
    cuda = json.loads((results / "cuda_report.json").read_text())["static"]
    (results / "triton_report.md").write_text(tables.document(found, cuda), encoding="utf-8")
    for problem in regressions(found, found):
        typer.echo(problem, err=True)


if __name__ == "__main__":
    typer.run(main)
