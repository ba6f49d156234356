"""The harness: who runs when, on which copy, and how figures are put together."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass

import report
import timing
from timing import Candidate, alternate, copies_needed


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


def test_copies_of_small_and_large_weights():
    assert copies_needed(2_000_000) == 80
    assert copies_needed(1 << 30) == 2


def test_a_turn_meets_no_copy_twice():
    calls = []
    copies = [lambda i=i: calls.append(i) for i in range(5)]
    alternate([Candidate("a", copies, 1)], rounds=1)
    # Three calls that count, then the turn: every copy once, and the last one for the warm calls.
    assert calls[:3] == [0, 1, 1]
    assert calls[3:] == [0, 1, 2, 3, 4] + [4] * 5


def test_a_setting_holds_during_the_turn_and_outside_the_time():
    inside = []

    @contextmanager
    def setting():
        inside.append("in")
        yield
        inside.append("out")

    alternate([Candidate("a", [lambda: inside.append("call")], 1, setting=setting)], rounds=1, round_ms=0)
    assert inside == ["in", *["call"] * 3, "out", "in", "call", "call", "out"]


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
