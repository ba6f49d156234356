"""Writes the report of the library that `make build` has made: benchmarks/results/cuda_report.{json,md}."""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from pathlib import Path

import typer
from report import write_json
from rich.console import Console

from . import tables
from .cases import CASES, SQUARE, Row, memory_bound_until, ratios, rows
from .disassembly import tool
from .gpus import ASSUMPTIONS, GPUS
from .plans import Planner
from .static import entries, regressions

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "python" / "lowbit" / "lib" / "liblowbit_cuda.so"
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / "build" / "cuda_report"


def main(library: Path = LIBRARY, results: Path = RESULTS) -> None:
    console = Console(stderr=True)
    if not library.exists():
        console.print(f"[red]{library} does not exist: make build[/red]")
        raise typer.Exit(1)
    with console.status(f"disassembling with {tool('cuobjdump')}"):
        static = entries(library, CACHE)
    with console.status("estimating"):
        planner = Planner(library)
        estimates = list(rows(planner, static))
        bounds = {
            case.title: {gpu.name: memory_bound_until(planner, static, case, *SQUARE, gpu) for gpu in GPUS}
            for case in CASES
        }
        beside = ratios(planner, static)
    document = {
        "note": "no GPU was used: times, shares of bandwidth and bounds are estimates",
        "static": static,
        "estimates": {
            "columns": [field.name for field in fields(Row)],
            "rows": [" ".join(str(value).replace(" ", "_") for value in astuple(row)) for row in estimates],
        },
        "memory_bound_until": bounds,
        "dequantizing_takes_times_as_long": [
            {"case": case, "tokens": tokens, "through_dram_and_in_l2": of_gpu}
            for (case, tokens), of_gpu in beside.items()
        ],
        "gpus": [asdict(gpu) for gpu in GPUS],
        "assumptions": [{"what": what, "from": source} for what, source in ASSUMPTIONS],
    }
    write_json(results / "cuda_report.json", document)
    (results / "cuda_report.md").write_text(
        tables.document(static, estimates, bounds, beside), encoding="utf-8"
    )
    for problem in regressions(static, static):
        console.print(f"[red]{problem}[/red]")
    console.print(f"{len({entry.kernel for entry in static})} kernels: {results / 'cuda_report.md'}")


if __name__ == "__main__":
    typer.run(main)
