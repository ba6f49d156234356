"""``lowbit explain``: which kernel each packed layer of a checkpoint runs with, and why."""

from __future__ import annotations

import lowbit
from lowbit.cli.arguments import DtypeOption, ModelArgument, load_model
from lowbit.cli.output import JsonOption, print_json, print_line


def explain(model: ModelArgument, dtype: DtypeOption = "bfloat16", json_output: JsonOption = False) -> None:
    """Load a checkpoint and say which kernel each packed layer runs with, and why."""
    report = lowbit.explain(load_model(model, dtype).model)
    if json_output:
        print_json({"model": model, **report.to_dict()})
        return
    print_line(str(report))
