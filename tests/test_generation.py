"""Generation, its clock, and what is measured around it."""

from __future__ import annotations

import copy
import subprocess

import lowbit
import pytest
import torch
from lowbit import models
from lowbit.environment import cache_sizes, describe, disturbance, environment, last_level_cache
from lowbit.errors import CheckpointError, ValueRangeError
from lowbit.generation import decode_seconds, generate_text
from lowbit.measure import DecodeSpeed, decode_speed, weight_size
from lowbit.memory import peak_memory

from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def loaded(tiny_model):  # noqa: F811
    return models.load(tiny_model)


def test_streamed_pieces_add_up_to_the_text(loaded):
    pieces = []
    result = generate_text(
        loaded.model, loaded.tokenizer, "the capital", max_new_tokens=9, on_text=pieces.append
    )
    assert "".join(pieces) == result.text
    assert result.text.startswith(" ")  # the first new word is kept apart from the prompt
    assert result.prompt_tokens == 3
    assert result.tokens_per_second == (result.new_tokens - 1) / result.decode_seconds


def test_greedy_equals_the_argmax(loaded):
    ids = loaded.tokenizer("the capital", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(5):
            best = loaded.model(ids).logits[0, -1].argmax()
            ids = torch.cat([ids, best.view(1, 1)], dim=1)
    result = generate_text(loaded.model, loaded.tokenizer, "the capital", max_new_tokens=5)
    expected = loaded.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert ("the capital" + result.text) == expected


def test_one_token_has_no_speed(loaded):
    result = generate_text(loaded.model, loaded.tokenizer, "the capital", max_new_tokens=1)
    assert result.new_tokens == 1
    assert result.tokens_per_second is None


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_refusals(loaded, options):
    with pytest.raises(ValueRangeError):
        generate_text(loaded.model, loaded.tokenizer, "the", **options)


def test_models_take_turns(loaded, monkeypatch):
    calls = []

    def fake(model, input_ids, new_tokens):
        calls.append((model, new_tokens))
        return {"slow": 0.004, "fast": 0.001}[model]

    monkeypatch.setattr("lowbit.measure.decode_seconds", fake)
    speeds = decode_speed({"a": "slow", "b": "fast"}, torch.ones(1, 2), new_tokens=8, rounds=3)
    assert [model for model, tokens in calls if tokens == 8] == ["slow", "fast"] * 3
    assert speeds["a"].ms_per_token == pytest.approx(4.0)
    assert speeds["b"].tokens_per_second == pytest.approx(1000)
    assert speeds["b"].times_faster_than(speeds["a"]) == pytest.approx(4.0)


def test_ratios_pair_the_rounds():
    ours, theirs = DecodeSpeed((1.0, 10.0, 2.0)), DecodeSpeed((3.0, 30.0, 6.0))
    assert ours.times_faster_than(theirs) == 3.0
    assert ours.to_dict()["ms_per_token_max"] == 10.0


def test_decode_seconds_makes_exactly_the_tokens_asked_for(loaded):
    lengths = []
    hook = loaded.model.register_forward_hook(lambda *_: lengths.append(1))
    try:
        assert decode_seconds(loaded.model, torch.tensor([[1, 3]]), 7) > 0
    finally:
        hook.remove()
    assert len(lengths) == 7


def test_weight_size_counts_everything_once(loaded, tmp_path):
    original = weight_size(loaded.model)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    rotary = sum(b.nbytes for b in loaded.model.buffers())
    assert original.bits_per_weight == 16.0
    assert original.bytes <= 2 * parameters + rotary
    packed = copy.deepcopy(loaded.model)
    report = lowbit.replace_linear(packed, lowbit.BipolarInt(group_size=32), skip=())
    size = weight_size(packed)
    embedding = packed.model.embed_tokens.weight
    weights = report.weights + embedding.numel()
    assert size.bits_per_weight == pytest.approx((4.5 * report.weights + 16 * embedding.numel()) / weights)
    assert size.bytes < original.bytes / 2


def test_memory_of_a_process_of_its_own(tiny_model):  # noqa: F811
    memory = peak_memory(tiny_model, new_tokens=2)
    assert 0 < memory.imports <= memory.decode_peak <= memory.peak
    assert memory.decode_above_imports == memory.decode_peak - memory.imports


def test_memory_that_cannot_be_measured(tmp_path, tiny_model, monkeypatch):  # noqa: F811
    with pytest.raises(CheckpointError, match="not a model"):
        peak_memory(tmp_path / "none")
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: no room\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(CheckpointError, match="MemoryError: no room"):
        peak_memory(tiny_model)


def test_environment_names_the_machine():
    stamp = environment()
    line = describe(stamp)
    assert stamp["versions"]["torch"] == torch.__version__
    assert str(stamp["cpu"]) in line
    assert f"lowbit {lowbit.__version__}" in line
    assert disturbance(stamp | {"load_average": 0.1}) is None
    assert "3.5" in str(disturbance(stamp | {"load_average": 3.5}))
    assert last_level_cache() >= max(cache_sizes().values(), default=0)
