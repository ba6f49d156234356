"""Claims about runs, on runs made up for the purpose."""

from __future__ import annotations

import ours
import pytest
import shapes
import torch
from lowbit.statistics import Interval
from rivals import unpacked
from runs import Line, Run
from shapes import Shape
from targets import Claim, claims

SQUARE = Shape(4096, 4096)


def run(tokens=1, shape=SQUARE, **us):
    """A run whose lines take the given microseconds in every round, cold; half of that warm."""
    lines = {
        name: Line(name, 2_000_000, None if ":" in name else 1.0, None, [time] * 5, [time / 2] * 5)
        for name, time in us.items()
    }
    return Run({}, shape, tokens, lines, {})


def find(found, *words):
    (claim,) = [each for each in found if all(word in each.text for word in words)]
    return claim


@pytest.mark.parametrize(("value", "met"), [(0.9, False), (1.0, True), (1.1, True)])
def test_bounds_include_their_end(value, met):
    assert Claim("", Interval(value, value, value), at_least=1).met is met
    assert Claim("", Interval(2 - value, 2 - value, 2 - value), at_most=1).met is met


def test_what_was_not_measured_is_not_met():
    claim = Claim("", None, at_least=1)
    assert not claim.met
    assert claim.verdict == "not measured"
    found = claims([run(BinaryMoS=60.0, OneBit=60.0)])
    assert find(found, "BinaryMoS, ", "llama.cpp Q1_0").verdict == "not measured"


def test_ratios_point_the_right_way():
    lines = {"BinaryMoS": 60.0, "OneBit": 60.0, "llama.cpp Q1_0": 300.0, "torch bf16": 1200.0}
    found = claims([run(**lines)])
    assert find(found, "BinaryMoS, ", "llama.cpp Q1_0").measured.value == 5
    assert find(found, "BinaryMoS, ", "llama.cpp Q1_0").met
    assert not find(found, "BinaryMoS, ", "torch bf16").met


def test_what_reading_alone_would_have_is_said():
    lines = {"BinaryMoS": 60.0, "OneBit": 60.0, "BinaryMoS: fast": 40.0, "llama.cpp Q1_0": 300.0}
    found = claims([run(**lines)])
    assert find(found, "BinaryMoS, ", "llama.cpp Q1_0").by_reading.value == 7.5
    assert "by reading alone 7.5)" in str(find(found, "BinaryMoS, ", "llama.cpp Q1_0"))
    assert find(found, "OneBit, ", "llama.cpp Q1_0").by_reading is None  # no loop over its tensors


@pytest.mark.parametrize(("time", "met"), [(66.0, True), (67.0, False)])
def test_the_floor_is_the_best_read_loop(time, met):
    lines = {"BinaryMoS": time, "OneBit": 60.0, "BinaryMoS: slow": 90.0, "BinaryMoS: fast": 60.0}
    assert find(claims([run(**lines)]), "BinaryMoS, ", "best read loop").met is met


@pytest.mark.parametrize(("time", "met"), [(41.0, True), (43.0, False)])
def test_or_what_two_cores_can_multiply(time, met):
    """4096 x 4096 at 400 G weights/s takes 41.9 us: no faster read makes that a miss."""
    lines = {"BinaryMoS": time, "OneBit": 60.0, "BinaryMoS: fast": 20.0}
    assert find(claims([run(**lines)]), "BinaryMoS, ", "best read loop").met is met


def test_batches_meet_the_best_rival():
    lines = {
        "BinaryMoS": 100.0,
        "OneBit": 100.0,
        "torch int8 dynamic": 400.0,
        "llama.cpp Q4_0 repacked": 280.0,
    }
    claim = find(claims([run(4, **lines)]), "BinaryMoS", "times faster")
    assert "Q4_0" in claim.text
    assert not claim.met


@pytest.mark.parametrize("shape", [Shape(4096, 4096), Shape(256, 640)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_tokens_meet_unpacking(shape, dtype):
    """Every family has a claim at every shape: none can be slower than unpacking unnoticed."""
    names = [entry.name for entry in ours.FAMILIES]
    rivals = {unpacked.name(name, dtype): 200.0 for name in names} | {unpacked.name(names[-1], dtype): 90.0}
    found = [
        each
        for each in claims([run(512, shape, **dict.fromkeys(names, 100.0), **rivals)])
        if any(each.text.endswith(f"than {rival}") for rival in rivals)
    ]
    assert [claim.met for claim in found] == [True] * (len(names) - 1) + [False]


def test_a_cliff_is_seen():
    runs = [run(1, BinaryMoS=60.0, OneBit=60.0), run(2, BinaryMoS=130.0, OneBit=140.0)]
    assert find(claims(runs), "BinaryMoS, ", "per token").met
    assert not find(claims(runs), "OneBit, ", "per token").met


def test_planes_cost_what_they_read():
    lines = {"BinaryMoS": 1.0, "OneBit": 1.0, f"{ours.W8}, 8 active": 400.0, f"{ours.W8}, 4 active": 230.0}
    found = run(**lines)
    found.lines[f"{ours.W8}, 4 active"] = Line("", 1_000_000, 4.0, None, [230.0] * 5, [1.0] * 5)
    claim = find(claims([found]), "4 active")
    assert claim.measured.value == pytest.approx(1.15)


def test_shapes_are_models_or_extents():
    assert shapes.parse("llama3-8b,64x32,4096x4096") == (*shapes.MODELS["llama3-8b"], Shape(64, 32))
    for wrong in ("llama", "64", "64x", "64x32x1"):
        with pytest.raises(ValueError, match="allowed"):
            shapes.parse(wrong)
