"""What commands print: a table or one JSON document on stdout; all else, progress included, on stderr."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
]


SECONDS_BETWEEN_LINES = 30


def print_json(document: object) -> None:
    """The document, with null for numbers JSON cannot write (NaN and infinities)."""
    sys.stdout.write(json.dumps(_finite(document), indent=2) + "\n")


def print_line(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with text in its first column and numbers aligned right; never wrapped when piped to a file."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(columns):
        numeric = index > 0 and all(
            isinstance(row[index], (int, float)) or _is_figure(row[index]) for row in rows
        )
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table, markup=False)


@contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; where that is no terminal, a line every half minute.

    Yields a function of (steps done, steps in all); until its first call the bar only shows that work goes
    on.
    """
    console = Console(file=sys.stderr)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    if bar.disable:
        with _lines(description) as step:
            yield step
        return
    with bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(description: str) -> Iterator[Callable[[int, int], None]]:
    """Lines from a thread of their own: a single step, or work without steps, can take minutes."""
    began = time.monotonic()
    finished = threading.Event()
    reached = ""

    def step(done: int, total: int) -> None:
        nonlocal reached
        reached = f"{done} of {total}, "

    def write() -> None:
        while not finished.wait(SECONDS_BETWEEN_LINES):
            print(f"{description}: {reached}{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield step
    finally:
        finished.set()
        writer.join()


def count(number: int, noun: str) -> str:
    """ "1 token", "2 tokens"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def quiet_libraries() -> None:
    """Silence transformers' own progress bars and warnings: this program reports in its own words."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _is_figure(cell: object) -> bool:
    return isinstance(cell, str) and (cell[:1].isdigit() or cell in ("", "-"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)
