"""Medians of repeated timings, how far they can be trusted, and how two of them compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{figures(self.median)} ({figures(self.low)}-{figures(self.high)})"


@dataclass(frozen=True)
class Interval:
    """A median with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{figures(self.value)} [{figures(self.low)}, {figures(self.high)}]"


def median_interval(values: Sequence[float]) -> Interval:
    """Percentile bootstrap of the median (Efron 1979): the same resamples on every call."""
    sample = np.asarray(values, dtype=np.float64)
    return _interval(float(np.median(sample)), _resampled_medians(sample, seed=0))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Median ratio of figures of the same rounds.

    Raises:
        ValueError: not one denominator for every numerator.
    """
    return median_interval([a / b for a, b in zip(numerators, denominators, strict=True)])


def ratio_of_medians(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Ratio of the medians of two independent samples, which may differ in size."""
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    ratios = _resampled_medians(above, seed=0) / _resampled_medians(below, seed=1)
    return _interval(float(np.median(above) / np.median(below)), ratios)


def figures(value: float) -> str:
    """Three figures, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _resampled_medians(sample: np.ndarray, seed: int) -> np.ndarray:
    picks = np.random.default_rng(seed).integers(0, sample.size, (_RESAMPLES, sample.size))
    return np.median(sample[picks], axis=1)


def _interval(value: float, resampled: np.ndarray) -> Interval:
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail)).tolist()
    return Interval(value, low, high)
