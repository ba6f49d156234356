"""Writes benchmarks/results/triton_sweep.json: whether any kind of launch that may be picked spills.

    make triton-sweep

reads every kind and compiles those whose code, as Triton reads it, is not in the file yet, several seconds
each; it can be ended and started again. What is picked and spills is told, and ends with status 1. The file
has a digest of what all kinds were read from, so that a test need read none to know whether it is of today.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tokenize
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import triton
import typer
from lowbit.triton_kernels import bits
from rich.progress import track

from .compiling import Entry, entry, hush
from .kinds import kinds
from .source import read
from .static import TARGETS
from .targets import NVIDIA

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "benchmarks" / "results" / "triton_sweep.json"
CACHE = ROOT / "build" / "triton_sweep"
SWEPT = tuple(target.name for target in NVIDIA)


class Row(NamedTuple):
    """A kind on a target. `code`: digest of what it is compiled from; the rest as of `Entry`."""

    target: str
    kind: str
    code: str
    registers: int
    spills: int
    shared: int
    per_weight: float | None
    refused: str


def main(file: Path = FILE, cache: Path = CACHE, jobs: int = os.cpu_count() or 1) -> None:
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    cache.mkdir(parents=True, exist_ok=True)
    log = cache / "found.jsonl"
    known = {(row.target, row.code): row for row in (*committed(file), *_logged(log))}
    # Kinds before targets, so that what was found when a run was ended is of all targets.
    names = zip(*(kinds(TARGETS[target]) for target in SWEPT), strict=True)
    wanted = [each for row in names for each in zip(SWEPT, row, strict=True)]
    with ProcessPoolExecutor(jobs, initializer=hush) as pool, log.open("a") as stream:
        codes = list(track(pool.map(code_of, *zip(*wanted, strict=True)), "reading", total=len(wanted)))
        missing = {
            (target, code): kind
            for (target, kind), code in zip(wanted, codes, strict=True)
            if (target, code) not in known
        }
        compiled = pool.map(_compiled, missing.keys(), missing.values())
        for row in track(compiled, "compiling", total=len(missing)):
            known[row.target, row.code] = row
            stream.write(json.dumps(row) + "\n")
            stream.flush()
    rows = [
        known[target, code]._replace(kind=kind) for (target, kind), code in zip(wanted, codes, strict=True)
    ]
    file.write_text(document(rows), encoding="utf-8")
    if found := list(problems(rows)):
        typer.echo("\n".join(found), err=True)
        raise typer.Exit(1)


def committed(file: Path = FILE) -> list[Row]:
    return [Row(*values) for values in json.loads(file.read_text())["rows"]] if file.exists() else []


def _logged(log: Path) -> list[Row]:
    return [Row(*json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def code_of(target: str, kind: str) -> str:
    """Digest of all that the compiled code depends on."""
    launch = kinds(TARGETS[target])[kind]
    parts = (
        triton.__version__,
        read(launch, TARGETS[target]),
        sorted(launch.options.items()),
        launch.weights,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def digest_of_inputs() -> str:
    """Of all that codes depend on: the kernels, how every kind of every target launches them, and Triton."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(bits.__path__[0]).glob("*.py"))]
    kernels = [list(_tokens(source)) for source in sources if "@triton.jit" in source]
    launches = [
        (target, kind, launch.signature, launch.constexprs, launch.options, launch.weights, launch.divisible)
        for target in SWEPT
        for kind, launch in kinds(TARGETS[target]).items()
    ]
    return hashlib.sha256(repr((triton.__version__, kernels, launches)).encode()).hexdigest()


def _tokens(source: str) -> Iterator[str]:
    """Without comments and docstrings."""
    starts_line = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL) or (token.type == tokenize.STRING and starts_line):
            continue
        starts_line = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        yield token.string


def row_of(target: str, kind: str) -> Row:
    """Compiles it."""
    return _row(code_of(target, kind), entry(kinds(TARGETS[target])[kind], TARGETS[target]), kind)


def _compiled(code: tuple[str, str], kind: str) -> Row:
    target, digest = code
    return _row(digest, entry(kinds(TARGETS[target])[kind], TARGETS[target]), kind)


def _row(code: str, found: Entry, kind: str) -> Row:
    values: dict[str, Any] = asdict(found)
    del values["launch"], values["calls"]
    return Row(kind=kind, code=code, **values)


def problems(rows: Iterable[Row]) -> Iterator[str]:
    """What must not be picked; one sentence each."""
    for row in rows:
        where = f"{row.kind} on {row.target}"
        if row.refused:
            yield f"{where}: refused, {row.refused}"
        if row.spills:
            yield f"{where}: {row.spills} bytes of registers are spilled"
        if row.shared > TARGETS[row.target].shared:
            yield f"{where}: {row.shared} bytes of shared memory, more than there are"


def document(rows: Iterable[Row]) -> str:
    """A kind a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = '"note": "compiled, never run on a GPU", "triton": ' + json.dumps(triton.__version__)
    head += f', "inputs": "{digest_of_inputs()}"'
    return f'{{{head},\n"columns": {json.dumps(Row._fields)},\n"rows": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    typer.run(main)
