"""fast_decode gives the tokens of `generate`, compiles once per batch size, and says what it cannot do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import lowbit
import pytest
import torch
from lowbit.decoding import FastDecoder, Sampling, fast_decode
from lowbit.decoding.cache import BUCKET
from lowbit.errors import BackendError, LowbitError, ShapeError, UnsupportedLayerError, ValueRangeError
from lowbit.modules import PlanesLinear
from torch import Tensor, nn

from tests import tiny_models as models
from tests.native import needs_native

W4 = lowbit.BipolarInt(4, group_size=32)
NEW_TOKENS = BUCKET + 6  # more than are read by one recording, and than the sliding window of 32


def packed(make: Callable[[], nn.Module], scheme: lowbit.Scheme) -> nn.Module:
    model = make()
    lowbit.replace_linear(model, scheme, skip=())
    model.generation_config.eos_token_id = None
    return model


def generated(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=mask, **options)


@pytest.fixture(scope="module")
def decoder() -> FastDecoder:
    return fast_decode(packed(models.gemma3, W4))


@needs_native
def test_sliding_windows_and_positions_that_advance(decoder: FastDecoder, monkeypatch) -> None:
    ids = models.token_ids(1, 9)
    assert torch.equal(decoder.generate(ids, max_new_tokens=NEW_TOKENS), generated(decoder.model, ids))
    assert list(decoder.compile_seconds) == [1]
    monkeypatch.setattr("lowbit.decoding.step._compile_graph", None)  # another compilation would fail
    other = models.token_ids(1, 40).flip(1)
    assert torch.equal(decoder.generate(other, max_new_tokens=NEW_TOKENS), generated(decoder.model, other))


@needs_native
def test_siblings_run_as_one_call(decoder: FastDecoder) -> None:
    decoder.generate(models.token_ids(1, 9), max_new_tokens=3)
    calls = Counter(decoder._steps[1].recordings[BUCKET].replay.names)
    assert calls["lowbit.siblings_linear.default"] == 2 * 2  # q, k, v and gate, up of two layers
    assert calls["lowbit.planes_linear.default"] == 2 * 2 + 1  # o, down, and the head


@needs_native
def test_the_end_of_a_sequence(decoder: FastDecoder) -> None:
    ids = models.token_ids(1, 9)
    free = decoder.generate(ids, max_new_tokens=20)[0, 9:].tolist()
    end = free[7]
    first = free.index(end)
    stopped = decoder.generate(ids, max_new_tokens=20, eos_token_id=end)[0, 9:].tolist()
    assert stopped == free[: first + 1]


@needs_native
def test_streamed_tokens_are_the_result(decoder: FastDecoder) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.pieces: list[Tensor] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.pieces.append(value)

        def end(self) -> None:
            self.ended = True

    streamer = Streamer()
    ids = models.token_ids(1, 5)
    result = decoder.generate(ids, max_new_tokens=6, streamer=streamer)
    assert streamer.ended
    assert torch.equal(torch.cat([piece.flatten() for piece in streamer.pieces]), result[0])


@needs_native
def test_sampling_is_repeatable_and_follows_the_seed(decoder: FastDecoder) -> None:
    ids = models.token_ids(1, 5)

    def draw(seed: int) -> list[int]:
        sampling = Sampling(generator=torch.Generator().manual_seed(seed))
        return decoder.generate(ids, max_new_tokens=12, sampling=sampling)[0].tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@needs_native
def test_a_batch_of_padded_prompts() -> None:
    model = packed(models.llama, lowbit.BinaryMoS(experts=2))
    ids = models.token_ids(3, 12)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    mask[2, :11] = 0
    result = fast_decode(model).generate(ids, mask, max_new_tokens=NEW_TOKENS)
    assert torch.equal(result, generated(model, ids, mask))


@needs_native
def test_biases() -> None:
    model = packed(models.qwen2, W4)
    ids = models.token_ids(1, 9)
    assert torch.equal(fast_decode(model).generate(ids, max_new_tokens=NEW_TOKENS), generated(model, ids))


@needs_native
def test_a_changed_model_is_compiled_again(decoder: FastDecoder) -> None:
    ids = models.token_ids(1, 9)
    before = decoder.generate(ids, max_new_tokens=NEW_TOKENS)
    packed_layers = [layer for layer in decoder.model.modules() if isinstance(layer, PlanesLinear)]
    for layer in packed_layers:
        layer.active_bits = 2
    try:
        after = decoder.generate(ids, max_new_tokens=NEW_TOKENS)
        assert not torch.equal(after, before)
        assert torch.equal(after, generated(decoder.model, ids))
    finally:
        for layer in packed_layers:
            layer.active_bits = None


# ---- sampling ----


def test_top_p_and_top_k_keep_what_generate_keeps() -> None:
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)) * 2
    for top_k, top_p in ((0, 0.5), (0, 0.99), (7, 1.0), (50, 0.7)):
        kept = logits if not top_k else TopKLogitsWarper(top_k)(None, logits)
        kept = kept if top_p == 1 else TopPLogitsWarper(top_p)(None, kept)
        allowed = set(kept[0].isfinite().nonzero().flatten().tolist())
        sampling = Sampling(top_k=top_k, top_p=top_p, generator=torch.Generator().manual_seed(1))
        drawn = {int(sampling.draw(logits)) for _ in range(3000)}
        assert drawn <= allowed
        if len(allowed) < 10:
            assert drawn == allowed


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_refusals(options: dict[str, float]) -> None:
    with pytest.raises(ValueRangeError):
        Sampling(**options)


# ---- refusals ----


def test_models_that_it_cannot_drive() -> None:
    with pytest.raises(UnsupportedLayerError, match="causal language models"):
        fast_decode(nn.Linear(2, 2))
    with pytest.raises(LowbitError, match="evaluation mode"):
        fast_decode(models.llama().train())
    model = models.llama()
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(UnsupportedLayerError, match="linear_attention"):
        fast_decode(model)


def test_no_compiler(monkeypatch) -> None:
    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(BackendError, match=r"C\+\+ compiler"):
        fast_decode(models.llama())


def test_prompts() -> None:
    decoder = fast_decode(models.llama())
    ids = models.token_ids(2, 4)
    right = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for refused, options in (
        (ShapeError, {"input_ids": ids[0]}),
        (ShapeError, {"input_ids": models.token_ids(17, 4)}),
        (ShapeError, {"input_ids": ids, "attention_mask": right[:, :3]}),
        (ValueRangeError, {"input_ids": ids, "attention_mask": right}),
        (ValueRangeError, {"input_ids": ids, "max_new_tokens": 0}),
    ):
        with pytest.raises(refused):
            decoder.generate(**options)
