"""Perplexity against a computation of its own, straight from the definition."""

from __future__ import annotations

import math

import pytest
import torch
from lowbit import models
from lowbit.errors import ValueRangeError
from lowbit.perplexity import default_text, perplexity

from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)

TEXT = "the capital of France is Paris . computing history begins with one two three and " * 9


@pytest.fixture(scope="module")
def loaded(tiny_model):  # noqa: F811
    return models.load(tiny_model, dtype=torch.float32)


def by_hand(loaded, ids, window):
    """One window after the other, one token after the other, in float64."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - (window - 1) + 1, window - 1):
        content = [1, *ids[start : start + window - 1]]
        with torch.no_grad():
            logits = loaded.model(torch.tensor([content])).logits[0].double()
        for position in range(1, len(content)):
            total -= torch.log_softmax(logits[position - 1], -1)[content[position]].item()
            count += 1
    return math.exp(total / count), count


@pytest.mark.parametrize("window", [2, 17, 64])
def test_matches_the_definition(loaded, window):
    ids = loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    expected, count = by_hand(loaded, ids, window)
    steps = []
    result = perplexity(
        loaded.model, loaded.tokenizer, TEXT, window=window, progress=lambda *done: steps.append(done)
    )
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert result.positions == result.tokens == count
    assert result.windows == len(steps)
    assert steps[-1] == (result.windows, result.windows)
    assert f"{result.windows} windows of BOS and {window - 1} tokens" in result.definition


def test_limits_the_tokens(loaded):
    result = perplexity(loaded.model, loaded.tokenizer, TEXT, window=17, max_tokens=40)
    assert (result.windows, result.positions) == (2, 32)


def test_a_short_text_is_one_short_window(loaded):
    result = perplexity(loaded.model, loaded.tokenizer, "the capital of France")
    assert (result.windows, result.window, result.positions) == (1, 5, 4)


def test_without_bos_the_first_token_is_not_scored(loaded):
    class NoBos:
        bos_token_id = None

        def __call__(self, *args, **kwargs):
            return loaded.tokenizer(*args, **kwargs)

    result = perplexity(loaded.model, NoBos(), TEXT, window=16, max_tokens=32)
    assert (result.windows, result.positions, result.tokens, result.bos) == (2, 30, 32, False)
    assert "BOS" not in result.definition


def test_refusals(loaded):
    for options in ({"window": 1}, {"max_tokens": 0}):
        with pytest.raises(ValueRangeError):
            perplexity(loaded.model, loaded.tokenizer, TEXT, **options)
    with pytest.raises(ValueRangeError, match="too short"):
        perplexity(loaded.model, loaded.tokenizer, "")


def test_the_default_text_is_plain_english():
    text = default_text()
    assert len(text) > 400_000
    assert "\n\n" in text
