"""The report of the kernel runs: Markdown, one self-contained HTML page, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ours
from lowbit.environment import describe, disturbance
from runs import COLD, WARM, Run
from targets import Claim, summary

from report import kernel_plots
from report.files import markdown_table
from report.html import page
from report.tables import Table, overview, read_table, run_table, target_table

_OVERVIEW = (
    *(ours.BINARY_MOS, ours.ONE_BIT, ours.W2, ours.W4, ours.SCALAR),
    *("torch bf16", "torch int8 dynamic", "llama.cpp Q4_0 repacked", "llama.cpp TQ2_0", "llama.cpp Q1_0"),
)
_NOTES = (
    "Microseconds per call: median (quartiles) over rounds in which all candidates take turns. "
    "Cold: copies of the weights rotate past the last-level cache; warm: one copy. "
    "GB/s: everything a call reads and writes, cold. "
    "% of read: of the best of six native read loops over memory far larger than the caches, same run. "
    "x read: cold time over the best read loop over exactly the tensors that the kernel reads. "
    "error: what rounding the activations costs, relative to exact products with the same packed weight, "
    "on random normal inputs. "
    "Ratios above 1: faster than that rival, rounds paired, with 95 % bootstrap intervals. "
    "[avx2], [avxvnni]: held to that instruction set.",
)


def write_report(output: Path, runs: Sequence[Run], claims: Sequence[Claim]) -> None:
    """OUTPUT/kernels.md, kernels.html and the pictures that both show; nothing where there is no run."""
    if not runs:
        return
    title = "Kernels"
    machines = list(dict.fromkeys(describe(run.environment) for run in runs))
    noisy = [(run, disturbance(run.environment)) for run in runs]
    remarks = [*machines, *_NOTES, summary(claims)]
    remarks += [f"{run.shape}, M = {run.tokens}: {text}" for run, text in noisy if text]
    tables = [target_table(claims)]
    tables += [overview(runs, _OVERVIEW, temperature) for temperature in (COLD, WARM)]
    tables += [read_table(runs), *map(run_table, runs)]
    pictures = kernel_plots.draw(output, runs, machines[0])
    links = [f"![{path.stem}]({path.name})" for path in pictures]
    parts = [f"# {title}", *remarks, *links, *map(markdown, tables)]
    (output / "kernels.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (output / "kernels.html").write_text(page(title, remarks, pictures, tables), encoding="utf-8")


def markdown(table: Table) -> str:
    """Heading, table and notes."""
    return "\n\n".join((f"### {table.title}", markdown_table(table.columns, table.rows), *table.notes))
