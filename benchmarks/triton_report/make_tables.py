"""Writes the shipped tiles, triton_kernels/tiles/sm_*.json, and benchmarks/results/triton_tiles.{json,md}.

    make triton-tables

compiles what is not in build/triton_tiles yet, half an hour on two cores if nothing is, and can be
ended and started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import triton
import typer
from lowbit.triton_kernels import shipped
from lowbit.triton_kernels.bits.variants import Variant, shipped_variants
from rich.progress import Progress

from . import tile_tables
from .choice import alike, choose, looked_at, main_loop, products
from .facts import Facts
from .gpus import GPUS
from .known import TARGETS, Known, compiled_for
from .tile_tables import Chosen

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / "build" / "triton_tiles"
ABOUT = (
    "Estimates, no measurements: made by `make triton-tables` from code that Triton {version} compiles, with "
    "the model in benchmarks/triton_report/estimate.py. By multiprocessors of the GPU, tiles by product: "
    "programs a multiprocessor, rows, warps, stages (lowbit.tuning.Tiles)."
)

Code = tuple[int, Variant]  # architecture and what is compiled


def main(results: Path = RESULTS, cache: Path = CACHE, jobs: int = os.cpu_count() or 1) -> None:
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    known = Known(cache)
    wanted = {(compiled_for(gpu.architecture), variant) for gpu in GPUS for variant in looked_at(gpu)}
    with ProcessPoolExecutor(jobs) as pool, Progress() as progress:
        task = progress.add_task("compiling", total=None)
        while True:
            for done, total in known.compile_all(sorted(wanted), pool):
                progress.update(task, completed=done, total=total)
            chosen, wanted = choices(known)
            if all(known.get(*each) is not None for each in wanted):
                break
    for architecture in TARGETS:
        path = shipped.path(divmod(architecture, 10))
        path.parent.mkdir(exist_ok=True)
        path.write_text(table(architecture, chosen), encoding="utf-8")
    (results / "triton_tiles.json").write_text(document(known, wanted, chosen), encoding="utf-8")
    (results / "triton_tiles.md").write_text(tile_tables.document(chosen, code(known)), encoding="utf-8")


def choices(known: Known) -> tuple[Chosen, set[Code]]:
    """For all GPUs, and the code that they rest on.

    What of it is not known yet is taken to spill no more than the main loop whose facts it is estimated by.
    """
    asked: set[Code] = set()

    def look(architecture: int, variant: Variant) -> Facts:
        asked.add((architecture, variant))
        found = known.get(architecture, variant) or known.get(compiled_for(architecture), main_loop(variant))
        assert found is not None
        return found

    chosen = {
        (architecture, count): (
            gpus,
            [
                choose(product, gpus, partial(look, compiled_for(architecture)), partial(look, architecture))
                for product in products()
            ],
        )
        for architecture in TARGETS
        for count, gpus in alike(GPUS, architecture).items()
    }
    return chosen, asked


def table(architecture: int, chosen: Chosen) -> str:
    """A file of shipped tiles, a product a line."""
    counts = []
    for (of, count), (_, found) in sorted(chosen.items()):
        if of == architecture:
            lines = sorted(
                f"   {json.dumps(one.product)}: {json.dumps(one.tiles)}"
                for one in found
                if one.tiles is not None
            )
            counts.append(f'  "{count}": {{\n' + ",\n".join(lines) + "\n  }")
    gpus = {
        count: [gpu.name for gpu in found] for (of, count), (found, _) in chosen.items() if of == architecture
    }
    head = (
        f' "about": {json.dumps(ABOUT.format(version=triton.__version__))},\n "gpus": {json.dumps(gpus)},\n'
    )
    return "{\n" + head + ' "tiles": {\n' + ",\n".join(counts) + "\n }\n}\n"


def code(known: Known) -> tile_tables.Code:
    """Of the files that were written."""
    shipped.tables.cache_clear()
    found: dict[int, dict[Variant, Facts]] = {}
    for architecture in TARGETS:
        own = found.setdefault(architecture, {})
        for variant in shipped_variants(divmod(architecture, 10)):
            facts = known.get(architecture, variant)
            assert facts is not None
            own[variant] = facts
    return found


def document(known: Known, asked: Iterable[Code], chosen: Chosen) -> str:
    """What was looked at, and what came of it: one variant, and one choice, a line."""
    looked = sorted(
        (architecture, variant.name, known.get(architecture, variant)) for architecture, variant in asked
    )
    facts = [json.dumps([f"sm_{a}", name, *found.row()]) for a, name, found in looked if found is not None]
    rows = [
        json.dumps(
            [f"sm_{a}", count, one.product, one.tiles, one.gain, round(one.before, 2), round(one.after, 2)]
        )
        for (a, count), (_, found) in chosen.items()
        for one in found
    ]
    columns = json.dumps(["target", "variant", *(field.name for field in fields(Facts))])
    of_choices = json.dumps(
        ["target", "multiprocessors", "product", "tiles", "gain", "us_before", "us_after"]
    )
    return (
        '{\n"note": "compiled code; times and gains are estimates, no measurements",\n'
        f'"triton": {json.dumps(triton.__version__)},\n'
        f'"fact_columns": {columns},\n"facts": [\n' + ",\n".join(facts) + "\n],\n"
        f'"choice_columns": {of_choices},\n"choices": [\n' + ",\n".join(rows) + "\n]\n}\n"
    )


if __name__ == "__main__":
    typer.run(main)
