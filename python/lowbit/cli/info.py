"""``lowbit info``: this machine, the versions, and which backends run here or why not."""

from __future__ import annotations

import lowbit
from lowbit.cli.output import JsonOption, print_json, print_line
from lowbit.environment import describe, environment


def info(json_output: JsonOption = False) -> None:
    """Show the backends found, or why not, and the machine."""
    report = lowbit.info()
    stamp = environment()
    if json_output:
        print_json({**report.to_dict(), "environment": stamp})
        return
    print_line(str(report))
    print_line(describe(stamp))
