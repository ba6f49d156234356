"""Inside `in_generate` the model's own `generate` gives what it gives outside, with compiled steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import torch
from lowbit.decoding import FastDecoder, fast_decode
from lowbit.decoding.cache import BUCKET
from lowbit.decoding.calls import as_step
from lowbit.errors import LowbitError, UnsupportedLayerError
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
        assert tokens.dtype is torch.int64
        sizes.append(len(tokens))
        return take(self, tokens, *others)

    with monkeypatch.context() as patch, decoder.in_generate():
        patch.setattr(FastDecoder, "_take_step", noted)
        yield sizes


def compared(decoder: FastDecoder, monkeypatch, calls: Callable[[], list[Tensor]]) -> list[int]:
    """Calls of the model return the same when generate makes them; the batch size of every step."""
    expected = calls()
    with counted(decoder, monkeypatch) as steps:
        found = decoder._generate_with_steps(calls)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    return steps


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


def test_scores_and_logits_are_of_their_step(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    wanted = {"return_dict_in_generate": True, "output_logits": True}
    expected = generated(decoder.model, ids, **wanted)
    with counted(decoder, monkeypatch) as steps:
        found = generated(decoder.model, ids, **wanted)
    assert len(steps) == 19
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-5)


def test_two_caches_take_turns(decoder, monkeypatch) -> None:
    texts = [models.token_ids(1, 9), models.token_ids(1, 14).flip(1)]

    def both() -> list[Tensor]:
        caches = [DynamicCache(config=decoder.model.config) for _ in texts]
        found = [logits(decoder.model, ids, cache) for ids, cache in zip(texts, caches, strict=True)]
        for token in (3, 5, 7):
            found += [logits(decoder.model, torch.tensor([[token]]), cache) for cache in caches]
        return [rows[:, -1] for rows in found]

    assert len(compared(decoder, monkeypatch, both)) == 6


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

    assert len(compared(decoder, monkeypatch, all_of_it)) == 7


def test_calls_that_are_no_steps_are_the_models_own(decoder, monkeypatch) -> None:
    model, token = decoder.model, torch.tensor([[3]])

    def calls() -> None:
        cache = DynamicCache()
        logits(model, models.token_ids(1, 9), cache)
        with torch.no_grad():
            rich = model(input_ids=token, past_key_values=cache, output_hidden_states=True)
            assert len(rich.hidden_states) == 3
            assert isinstance(model(input_ids=token, past_key_values=cache, return_dict=False), tuple)
            embedded = model.get_input_embeddings()(token)
            model(inputs_embeds=embedded, past_key_values=cache)
            rows = model(input_ids=token, past_key_values=cache, logits_to_keep=torch.tensor([0, 0])).logits
            assert rows.shape[1] == 2
            with torch.autocast("cpu", torch.bfloat16):
                model(input_ids=token, past_key_values=cache)
        with torch.enable_grad():
            assert model(inputs_embeds=embedded.requires_grad_(), past_key_values=cache).logits.requires_grad
            model(input_ids=token, past_key_values=cache)
        many = DynamicCache()
        logits(model, models.token_ids(17, 3), many)
        logits(model, models.token_ids(17, 1), many)
        assert cache.get_seq_length() == 9 + 7
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            logits(model, models.token_ids(2, 1), cache)
        torn = DynamicCache()
        logits(model, models.token_ids(1, 9), torn)
        torn.layers[1].crop(-1)
        with torch.no_grad():
            assert as_step(model, {"input_ids": token, "past_key_values": torn}) is None

    with counted(decoder, monkeypatch) as steps:
        decoder._generate_with_steps(calls)
    assert not steps


def test_tokens_of_any_integer_type(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)

    def calls() -> list[Tensor]:
        cache = DynamicCache()
        tokens = [
            torch.tensor([[token]], dtype=dtype) for token, dtype in ((3, torch.int32), (5, torch.int64))
        ]
        return [logits(decoder.model, each, cache)[:, -1] for each in (ids, *tokens)]

    assert len(compared(decoder, monkeypatch, calls)) == 2


def test_in_inference_mode_and_beside_the_decoders_own_generate(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    expected = generated(decoder.model, ids)
    with counted(decoder, monkeypatch) as steps, torch.inference_mode():
        assert torch.equal(generated(decoder.model, ids), expected)
        assert torch.equal(decoder.generate(ids, max_new_tokens=20), expected)
        assert torch.equal(generated(decoder.model, ids), expected)
    assert len(steps) == 3 * 19


def test_a_changed_model_is_compiled_again(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    model = decoder.model
    kept = {"return_dict_in_generate": True}

    def a_dialogue() -> Tensor:
        """Changed between two texts, the second of which goes on with the first one's cache."""
        first = generated(model, ids, max_new_tokens=30, **kept)
        with changed(model):
            more = {"past_key_values": first.past_key_values, "max_new_tokens": 30}
            return generated(model, first.sequences, **more)

    @contextmanager
    def changed(model: Any) -> Iterator[None]:
        layer = model.model.layers[0].mlp.down_proj
        layer.active_bits = 1
        yield
        layer.active_bits = None

    expected = a_dialogue()
    with counted(decoder, monkeypatch) as steps:
        assert torch.equal(a_dialogue(), expected)
    assert len(steps) == 29 + 30
    step = decoder._steps[1]
    with changed(model):
        assert step.is_current()
    assert not step.is_current()
    monkeypatch.setattr(model.config, "final_logit_softcapping", 0.05)
    with changed(model):
        assert not step.is_current()


def test_a_cache_that_is_returned_has_its_own_memory(decoder) -> None:
    ids = models.token_ids(1, 9)
    with decoder.in_generate():
        cache = generated(decoder.model, ids, return_dict_in_generate=True).past_key_values
    for layer in cache.layers:
        for states in (layer.keys, layer.values):
            assert states.untyped_storage().nbytes() == states.nbytes


def test_hooks_of_the_model_run_once(decoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    calls: list[int] = []
    hook = decoder.model.register_forward_pre_hook(lambda module, args: calls.append(1))
    try:
        with counted(decoder, monkeypatch) as steps:
            generated(decoder.model, ids)
    finally:
        hook.remove()
    assert len(calls) == 20
    assert not steps


class Streamer:
    """Calls `use` after every token."""

    def __init__(self, use: Callable[[], None]) -> None:
        self.put = lambda value: use()

    def end(self) -> None:
        pass


def test_texts_within_a_text(decoder, monkeypatch) -> None:
    """In the same thread, and in another one, which has no steps."""
    ids, other = models.token_ids(1, 9), models.token_ids(1, 14).flip(1)
    expected, inner = generated(decoder.model, ids), generated(decoder.model, other, max_new_tokens=4)

    def use() -> None:
        assert torch.equal(generated(decoder.model, other, max_new_tokens=4), inner)
        found: list[Tensor] = []
        thread = Thread(target=lambda: found.append(generated(decoder.model, other, max_new_tokens=4)))
        thread.start()
        thread.join()
        assert torch.equal(found[0], inner)
        with pytest.raises(LowbitError, match="generating already"):
            decoder.generate(ids, max_new_tokens=3)

    with counted(decoder, monkeypatch) as steps:
        assert torch.equal(generated(decoder.model, ids, streamer=Streamer(use)), expected)
    assert len(steps) == 19 + 21 * 3
    decoder.generate(ids, max_new_tokens=3, streamer=Streamer(lambda: generated(decoder.model, other)))


def test_a_step_that_cannot_be_compiled() -> None:
    model = packed(models.llama, W4)
    ids = models.token_ids(1, 9)
    expected = generated(model, ids)
    hook = model.model.layers[0].register_forward_hook(lambda *_: torch._dynamo.graph_break())
    decoder = fast_decode(model)
    with decoder.in_generate():
        assert torch.equal(generated(model, ids), expected)
    assert "cannot be compiled" in decoder.refusals[1]
    with pytest.raises(UnsupportedLayerError, match="cannot be compiled"):
        decoder.generate(ids, max_new_tokens=3)
    hook.remove()


def test_the_model_is_left_as_it_was(decoder) -> None:
    model = decoder.model

    def fail() -> None:
        raise ZeroDivisionError

    with decoder.in_generate(), pytest.raises(ZeroDivisionError):
        generated(model, models.token_ids(1, 9), streamer=Streamer(fail))
    assert not {"forward", "generate"} & set(vars(model))
    with decoder.in_generate():
        mine = model.generate = lambda: None
    assert vars(model).pop("generate") is mine


def test_what_cannot_be_done_meanwhile(decoder) -> None:
    model = decoder.model
    another = fast_decode(model)
    with decoder.in_generate():
        with pytest.raises(LowbitError, match="in this model's generate already"):
            another.in_generate().__enter__()
        with pytest.raises(LowbitError, match="copy it outside"):
            copy.deepcopy(model)
        with pytest.raises(LowbitError, match="cannot be pickled"):
            pickle.dumps(model.generate)
