"""Two files of timings: a real change is seen, noise is not."""

from __future__ import annotations

import json

import pytest
from lowbit.compare import IMPROVEMENT, REGRESSION, SAME, compare
from lowbit.errors import FormatError

STEADY = [100.0, 101.0, 99.0, 100.0, 102.0, 100.0, 98.0]


@pytest.fixture
def write(tmp_path):
    def write(name, **lines):
        path = tmp_path / name
        document = {"lines": {kernel: {"cold": cold, "warm": STEADY} for kernel, cold in lines.items()}}
        path.write_text(json.dumps(document))
        return path

    return write


def scaled(factor):
    return [factor * value for value in STEADY]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, SAME), (1.03, SAME), (1.2, REGRESSION), (0.8, IMPROVEMENT)]
)
def test_verdicts(write, factor, verdict):
    cold, warm = compare(write("a", one=STEADY), write("b", one=scaled(factor)), tolerance=0.05)
    assert (cold.name, cold.verdict) == ("one, cold", verdict)
    assert (warm.name, warm.verdict) == ("one, warm", SAME)
    assert cold.ratio.value == pytest.approx(factor)


def test_noise_is_no_regression(write):
    noisy = [60.0, 190.0, 115.0, 90.0, 150.0, 112.0, 88.0]
    (cold, _) = compare(write("a", one=STEADY), write("b", one=noisy), tolerance=0.05)
    assert cold.ratio.value > 1.05
    assert cold.verdict == SAME


def test_a_slower_machine_can_be_taken_out(write):
    before, after = write("a", one=STEADY, base=STEADY), write("b", one=scaled(2), base=scaled(2))
    changes = compare(before, after, tolerance=0.05, relative_to="base, cold")
    assert next(change for change in changes if change.name == "one, cold").verdict == SAME


def test_models_are_compared_too(tmp_path):
    for name, factor in (("a", 1), ("b", 2)):
        rows = [{"model": "m", "ms_per_token_rounds": scaled(factor)}]
        (tmp_path / name).write_text(json.dumps({"models": rows}))
    (change,) = compare(tmp_path / "a", tmp_path / "b", tolerance=0.05)
    assert change.verdict == REGRESSION


def test_what_cannot_be_compared_is_refused(write, tmp_path):
    a, b = write("a", one=STEADY), write("b", other=STEADY)
    with pytest.raises(FormatError, match="share no measurement"):
        compare(a, b, tolerance=0.05)
    with pytest.raises(FormatError, match="lacks the measurement"):
        compare(a, a, tolerance=0.05, relative_to="base, cold")
    with pytest.raises(FormatError, match="cannot read"):
        compare(a, tmp_path / "absent", tolerance=0.05)
    (tmp_path / "c").write_text("[1]")
    with pytest.raises(FormatError, match="no timings"):
        compare(a, tmp_path / "c", tolerance=0.05)
