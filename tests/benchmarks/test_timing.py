"""The harness: who runs when, on which copy, and how figures are put together."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import report
import timing
from timing import Candidate, Samples, Spread, alternate, copies_needed, figures, ratio


def test_cold_calls_go_round_all_copies_and_warm_calls_stay(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "_calls_per_round", lambda candidate, round_ms: 2)
    copies = [lambda i=i: calls.append(i) for i in range(3)]
    alternate([Candidate("a", copies, 1)], rounds=3)
    assert calls == [0, 1, 1, 1, 2, 0, 0, 0, 1, 2, 2, 2]


def test_candidates_take_turns(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "_calls_per_round", lambda candidate, round_ms: 1)
    candidates = [Candidate(name, [lambda name=name: calls.append(name)], 1) for name in "ab"]
    samples = alternate(candidates, rounds=2)
    assert calls == ["a", "a", "b", "b"] * 2
    assert set(samples) == {"a", "b"}
    assert all(len(sample.cold) == len(sample.warm) == 2 for sample in samples.values())


def test_enough_copies_to_miss_the_cache():
    assert copies_needed(2_000_000, 32 << 20) == 80
    assert copies_needed(10 << 20, 512 << 20) == 205  # four times a large cache
    assert copies_needed(1 << 30, 32 << 20) == 2


def test_spread_and_ratio():
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    fast, slow = Samples(cold=[1.0, 2.0, 1.0]), Samples(cold=[4.0, 8.0, 4.0])
    assert ratio(fast.cold, slow.cold).median == 4.0
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (99.96, "100"), (12.34, "12.3"), (0.1234, "0.123")]
)
def test_figures(value, text):
    assert figures(value) == text


def test_json_has_null_for_what_json_cannot_write(tmp_path):
    @dataclass
    class Item:
        value: float

    report.write_json(
        tmp_path / "a" / "b.json", {"items": [Item(float("nan")), Item(1.0)], 3: (float("inf"),)}
    )
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {
        "items": [{"value": None}, {"value": 1.0}],
        "3": [None],
    }


def test_markdown_table_escapes_bars():
    assert report.markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
