"""Inside `in_generate` the model's own `generate` gives what it gives outside, with compiled steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lowbit.decoding import FastDecoder, fast_decode
from lowbit.decoding.cache import BUCKET
from lowbit.errors import LowbitError
from torch import Tensor
from transformers import DynamicCache

from tests import tiny_models as models
from tests.decoding.test_fast_decode import NEW_TOKENS, W4, packed
from tests.native import needs_native

pytestmark = needs_native


@pytest.fixture(scope="module")
def decoder() -> FastDecoder:
    """A window of 32 positions in one layer of two."""
    return fast_decode(packed(models.gemma3, W4))


@contextmanager
def counted(decoder: FastDecoder, monkeypatch) -> Iterator[list[int]]:
    """`in_generate`; yields the batch size of every step."""
    sizes: list[int] = []
    take = FastDecoder._take_step

    def noted(self: FastDecoder, tokens: Tensor, *others: Any) -> Any:
        sizes.append(len(tokens))
        return take(self, tokens, *others)

    with monkeypatch.context() as patch, decoder.in_generate():
        patch.setattr(FastDecoder, "_take_step", noted)
        yield sizes


def generated(model: Any, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **options)


def logits(model: Any, ids: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, **options).logits


def test_greedy_tokens_past_the_window_and_the_buffers(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    expected = generated(decoder.model, ids, max_new_tokens=NEW_TOKENS)
    with counted(decoder, monkeypatch) as steps:
        assert torch.equal(generated(decoder.model, ids, max_new_tokens=NEW_TOKENS), expected)
    assert steps == [1] * (NEW_TOKENS - 1)
    assert decoder._buffers[1].capacity > 2 * BUCKET  # they grew


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.7, "top_k": 20},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"prompt_lookup_num_tokens": 3},  # several tokens at once, and some of them taken back
        {"prefill_chunk_size": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_generate_can_do_otherwise(decoder, monkeypatch, options) -> None:
    ids = models.token_ids(1, 9)
    expected = generated(decoder.model, ids, **options)
    with counted(decoder, monkeypatch) as steps:
        assert torch.equal(generated(decoder.model, ids, **options), expected)
    assert steps


def test_a_padded_batch_and_beams(decoder, monkeypatch) -> None:
    ids = models.token_ids(2, 12)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    expected = generated(decoder.model, ids, mask)
    beams = generated(decoder.model, ids[:1], num_beams=2)
    with counted(decoder, monkeypatch) as steps:
        assert torch.equal(generated(decoder.model, ids, mask), expected)
        assert torch.equal(generated(decoder.model, ids[:1], num_beams=2), beams)
    assert set(steps) == {2}
    assert len(steps) > 20


def test_scores_and_logits_are_of_their_step(decoder) -> None:
    ids = models.token_ids(1, 9)
    wanted = {"return_dict_in_generate": True, "output_logits": True}
    expected = generated(decoder.model, ids, **wanted)
    with decoder.in_generate():
        found = generated(decoder.model, ids, **wanted)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-5)


def test_two_caches_take_turns(decoder, monkeypatch) -> None:
    texts = [models.token_ids(1, 9), models.token_ids(1, 14).flip(1)]

    def both() -> list[Tensor]:
        caches = [DynamicCache(config=decoder.model.config) for _ in texts]
        found = [logits(decoder.model, ids, cache) for ids, cache in zip(texts, caches, strict=True)]
        for token in (3, 5, 7):
            found += [logits(decoder.model, torch.tensor([[token]]), cache) for cache in caches]
        return [rows[:, -1] for rows in found]

    expected = both()
    with counted(decoder, monkeypatch) as steps:
        found = both()
    assert len(steps) == 6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_cache_is_cropped_copied_and_continued(decoder, monkeypatch) -> None:
    ids, other = models.token_ids(1, 9), models.token_ids(1, 14).flip(1)
    token, several = torch.tensor([[3]]), torch.tensor([[5, 7]])

    def all_of_it() -> list[Tensor]:
        cache = DynamicCache()
        found = [logits(decoder.model, ids, cache), logits(decoder.model, token, cache)]
        cache.crop(-2)
        second = DynamicCache()
        found += [logits(decoder.model, other, second), logits(decoder.model, token, second)]
        twin = copy.deepcopy(cache)
        found += [logits(decoder.model, token, each) for each in (cache, twin, second)]
        found += [logits(decoder.model, several, cache), logits(decoder.model, token, cache)]
        second.reset()
        return [*found, logits(decoder.model, ids, second), logits(decoder.model, token, second)]

    expected = all_of_it()
    with counted(decoder, monkeypatch) as steps:
        found = all_of_it()
    assert len(steps) == 7
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_calls_that_are_no_steps_are_the_models_own(decoder, monkeypatch) -> None:
    model, token = decoder.model, torch.tensor([[3]])
    with counted(decoder, monkeypatch) as steps:
        cache = DynamicCache()
        logits(model, models.token_ids(1, 9), cache)
        with torch.no_grad():
            rich = model(input_ids=token, past_key_values=cache, output_hidden_states=True)
            assert len(rich.hidden_states) == 3
            assert isinstance(model(input_ids=token, past_key_values=cache, return_dict=False), tuple)
            embedded = model.get_input_embeddings()(token)
            model(inputs_embeds=embedded, past_key_values=cache)
        with torch.enable_grad():
            assert model(inputs_embeds=embedded.requires_grad_(), past_key_values=cache).logits.requires_grad
            model(input_ids=token, past_key_values=cache)
        many = DynamicCache()
        logits(model, models.token_ids(17, 3), many)
        logits(model, models.token_ids(17, 1), many)
        assert not steps
        assert cache.get_seq_length() == 9 + 5


def test_a_cache_of_fewer_sequences_is_not_spread_over_them(decoder) -> None:
    cache = DynamicCache()
    with decoder.in_generate():
        logits(decoder.model, models.token_ids(1, 9), cache)
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            logits(decoder.model, models.token_ids(2, 1), cache)


def test_in_inference_mode_and_beside_the_decoders_own_generate(decoder) -> None:
    ids = models.token_ids(1, 9)
    expected = generated(decoder.model, ids)
    with decoder.in_generate(), torch.inference_mode():
        assert torch.equal(generated(decoder.model, ids), expected)
        assert torch.equal(decoder.generate(ids, max_new_tokens=20), expected)
        assert torch.equal(generated(decoder.model, ids), expected)


def test_a_changed_model_is_compiled_again(decoder) -> None:
    ids = models.token_ids(1, 9)
    layer = decoder.model.model.layers[0].mlp.down_proj
    with decoder.in_generate():
        before = generated(decoder.model, ids, max_new_tokens=60)
        layer.active_bits = 1
        try:
            after = generated(decoder.model, ids, max_new_tokens=60)
        finally:
            layer.active_bits = None
        assert not torch.equal(after, before)
        assert torch.equal(generated(decoder.model, ids, max_new_tokens=60), before)


def test_the_model_is_left_as_it_was(decoder) -> None:
    model = decoder.model

    def fail() -> None:
        with decoder.in_generate():
            raise ZeroDivisionError

    own = vars(model).get("forward")
    with pytest.raises(ZeroDivisionError):
        fail()
    assert vars(model).get("forward") is own


def test_what_cannot_be_done_meanwhile(decoder) -> None:
    model = decoder.model
    another = fast_decode(model)
    with decoder.in_generate():
        with pytest.raises(LowbitError, match="in this model's generate already"):
            another.in_generate().__enter__()
        with pytest.raises(LowbitError, match="copy it outside"):
            copy.deepcopy(model)
        with pytest.raises(LowbitError, match="cannot be pickled"):
            pickle.dumps(model.forward)
    assert "forward" not in vars(model)
