"""Tables of runs, as rows of text that Markdown and HTML both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowbit.statistics import Interval, Spread, figures
from runs import Run
from targets import Claim

# Ratios are shown against these where they ran.
RIVALS = (
    *("torch bf16", "torch fp32", "torch int8 dynamic"),
    *("llama.cpp Q4_0 repacked", "llama.cpp TQ2_0", "llama.cpp Q1_0"),
)


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def run_table(run: Run) -> Table:
    """Every kernel of one run."""
    rivals = [name for name in RIVALS if name in run.lines]
    reads = any(run.best_read(line.name) for line in run.kernels)
    columns = ["kernel", "bits/weight", "cold us", "warm us", "GB/s", "% of read", "G weights/s"]
    columns += ["x read"] * reads + ["error"] + [f"vs {name}" for name in rivals]
    rows = []
    for line in run.kernels:
        speed = line.gigabytes_per_second()
        row = [
            line.name,
            f"{line.bits_per_weight:.2f}",
            str(Spread.of(line.cold)),
            str(Spread.of(line.warm)),
            f"{speed:.1f}",
            f"{100 * speed / run.bandwidth:.0f}",
            figures(run.shape.weights / line.us() / 1e3),
        ]
        if reads:
            row.append(_ratio(run.of_read(line.name)))
        row.append("" if line.activation_error is None else f"{line.activation_error:.1e}")
        row += [_ratio(run.times_faster(line.name, rival)) for rival in rivals]
        rows.append(row)
    missing = [f"Not run: {name}: {reason}." for name, reason in run.missing.items()]
    title = f"{run.shape} (out x in), M = {run.tokens}; read bandwidth {run.bandwidth:.1f} GB/s"
    return Table(title, columns, rows, missing)


def overview(runs: Sequence[Run], kernels: Sequence[str], temperature: str) -> Table:
    """Times per call of a few kernels over all runs."""
    names = [name for name in kernels if any(name in run.lines for run in runs)]
    rows = [
        [f"{run.shape}, M = {run.tokens}"]
        + [figures(run.lines[name].us(temperature)) if name in run.lines else "" for name in names]
        for run in runs
    ]
    return Table(f"All runs: {temperature} us", ["layer", *names], rows)


def read_table(runs: Sequence[Run]) -> Table:
    """Which read loop was the floor of which kernel."""
    rows = []
    for run in runs:
        for line in run.kernels:
            best = run.best_read(line.name)
            if best is not None:
                where = f"{run.shape}, M = {run.tokens}: {line.name}"
                loop = best.name.removeprefix(f"{line.name}: ")
                rows.append([where, loop, str(Spread.of(best.cold)), f"{best.gigabytes_per_second():.1f}"])
    return Table("Best read loops, cold", ("tensors of", "loop", "us", "GB/s"), rows)


def target_table(claims: Sequence[Claim]) -> Table:
    rows = [
        [claim.text, str(claim.measured or ""), claim.wanted, str(claim.by_reading or ""), claim.verdict]
        for claim in claims
    ]
    return Table(
        "Targets", ("claim", "measured [95 % interval]", "wanted", "by reading alone", "verdict"), rows
    )


def _ratio(interval: Interval | None) -> str:
    return "" if interval is None else str(interval)
