"""``lowbit bench compare``: two files of timings, and an exit code that says whether something got slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.output import JsonOption, print_json, print_line, print_table


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Timings before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Timings after.")],
    tolerance: Annotated[float, typer.Option(help="Share of the time a change must exceed.", min=0)] = 0.05,
    relative_to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Divide by this measurement of the same rounds, e.g. 'torch bf16, cold'."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """What changed from A to B by more than its spread explains; exit code 1 if anything got slower."""
    from lowbit import compare as comparison

    changes = comparison.compare(a, b, tolerance=tolerance, relative_to=relative_to)
    slower = [change for change in changes if change.verdict == comparison.REGRESSION]
    if json_output:
        print_json({"changes": comparison.to_dicts(changes), "slower": len(slower)})
    else:
        columns = ("measurement", "A", "B", "B/A [95 % interval]", "")
        print_table("time of B over A", columns, [change.cells for change in changes])
        print_line(f"{len(slower)} of {len(changes)} slower by more than {100 * tolerance:g} %.")
    raise typer.Exit(1 if slower else 0)
