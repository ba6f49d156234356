"""Medians and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from lowbit.statistics import Spread, figures, median_interval, paired_ratio, ratio_of_medians


def test_spread():
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_intervals_cover_the_true_median_about_as_often_as_they_say():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        interval = median_interval(generator.normal(10, 1, 25).tolist())
        covered += interval.low <= 10 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_ratios_of_the_same_rounds_forget_the_machine():
    drift = [1.0, 3.0, 2.0, 5.0]
    ratio = paired_ratio([4 * d for d in drift], drift)
    assert (ratio.low, ratio.value, ratio.high) == (4, 4, 4)
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


def test_independent_samples_may_differ_in_size():
    ratio = ratio_of_medians([2.0, 2.0, 2.2], [1.0, 1.0, 1.0, 1.1])
    assert ratio.low <= 2 <= ratio.high
    assert ratio.value == 2


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (99.96, "100"), (12.34, "12.3"), (0.1234, "0.123")]
)
def test_figures(value, text):
    assert figures(value) == text
