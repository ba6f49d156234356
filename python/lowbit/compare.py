"""Two files of timings side by side: what became slower beyond what their spread explains."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lowbit.errors import FormatError
from lowbit.statistics import Interval, figures, ratio_of_medians

Series = dict[str, list[float]]


@dataclass(frozen=True)
class Change:
    """Time of one measurement in B over that in A.

    Attributes:
        before, after: medians, in the unit of the files.
        ratio: above 1 where B is slower, with a 95 % interval.
    """

    name: str
    before: float
    after: float
    ratio: Interval
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.name, figures(self.before), figures(self.after), str(self.ratio), self.verdict)


REGRESSION, IMPROVEMENT, SAME = "slower", "faster", ""


def compare(a: Path, b: Path, *, tolerance: float, relative_to: str | None = None) -> list[Change]:
    """Changes of everything that both files measured.

    A change counts where its whole interval lies beyond the tolerance: noise widens the interval, and so does
    not look like a regression.

    Args:
        tolerance: share of the time, e.g. 0.05.
        relative_to: name of a measurement both files have; times are divided by its times of the same
            rounds, which takes out a machine that was slower as a whole.

    Raises:
        FormatError: a file holds no timings, they share none, or one lacks ``relative_to``.
    """
    before, after = (_relative(path, read_series(path), relative_to) for path in (a, b))
    shared = [name for name in before if name in after]
    if not shared:
        raise FormatError("the files share no measurement", found=str(b), allowed=f"timings of {a}")
    changes = []
    for name in shared:
        ratio = ratio_of_medians(after[name], before[name])
        verdict = REGRESSION if ratio.low > 1 + tolerance else SAME
        verdict = IMPROVEMENT if ratio.high < 1 / (1 + tolerance) else verdict
        changes.append(Change(name, median(before[name]), median(after[name]), ratio, verdict))
    return changes


def read_series(path: Path) -> Series:
    """Samples by name: kernels' microseconds cold and warm, or models' milliseconds a token.

    Raises:
        FormatError: not a file of kernel runs or of ``lowbit bench --json``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot read timings: {error}", found=str(path)) from error
    try:
        if "lines" in document:
            return {
                f"{name}, {temperature}": line[temperature]
                for name, line in document["lines"].items()
                for temperature in ("cold", "warm")
            }
        return {row["model"]: row["ms_per_token_rounds"] for row in document["models"]}
    except (KeyError, TypeError, AttributeError) as error:
        allowed = "a run of benchmarks/kernels.py or the output of lowbit bench --json"
        raise FormatError("no timings in this file", found=str(path), allowed=allowed) from error


def _relative(path: Path, series: Series, yardstick: str | None) -> Series:
    if yardstick is None:
        return series
    if yardstick not in series:
        lacking = f"'{path}' lacks the measurement to compare with"
        raise FormatError(lacking, found=yardstick, allowed=list(series))
    divisors = series[yardstick]
    return {
        name: [value / divisor for value, divisor in zip(values, divisors, strict=True)]
        for name, values in series.items()
        if name != yardstick
    }


def to_dicts(changes: list[Change]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{**vars(change), "ratio": vars(change.ratio)} for change in changes]
