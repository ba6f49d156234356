"""Text generation by transformers' own ``generate`` loop or by `fast_decode`, streamed and timed by token."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from lowbit.decoding import FastDecoder, Sampling
from lowbit.errors import ValueRangeError


@dataclass(frozen=True)
class Generation:
    """A continuation and its times: up to the first new token, and for the tokens after it."""

    text: str
    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed; None when fewer than two tokens were made."""
        return (self.new_tokens - 1) / self.decode_seconds if self.new_tokens > 1 else None


class _Clock(BaseStreamer):
    """Notes when each new token is ready, and hands the tokens on to an inner streamer."""

    def __init__(self, inner: BaseStreamer | None = None) -> None:
        self.times: list[float] = []
        self._inner = inner
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self.times.append(time.perf_counter())
        self._prompt_seen = True  # the first call brings the prompt
        if self._inner is not None:
            self._inner.put(value)

    def end(self) -> None:
        if self._inner is not None:
            self._inner.end()


class _TextCallback(TextStreamer):
    """Hands out text word by word; starts at the prompt's last token, as a first word may lose its space."""

    def __init__(self, tokenizer: Any, last_of_prompt: torch.Tensor, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text
        self.token_cache = last_of_prompt.tolist()
        self.print_len = len(tokenizer.decode(self.token_cache, skip_special_tokens=True))

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._on_text(text)


def generate_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    decoder: FastDecoder | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue ``prompt``.

    Args:
        temperature: 0 takes the most likely token every time; above 0 samples.
        top_p: sample among the most likely tokens whose probabilities sum to this.
        seed: of the random numbers; None leaves the generator as it is.
        decoder: of the model; makes the tokens in place of the model's own ``generate``.
        on_text: called with each piece of text as soon as it is final.

    Raises:
        ValueRangeError: an argument is out of its range, or the prompt has no tokens.
    """
    if max_new_tokens < 1:
        raise ValueRangeError(
            "nothing to generate", found=f"max_new_tokens {max_new_tokens}", allowed="1 or more"
        )
    if temperature < 0:
        raise ValueRangeError("temperature out of range", found=temperature, allowed="0 or more")
    if not 0 < top_p <= 1:
        raise ValueRangeError("top_p out of range", found=top_p, allowed="above 0, up to 1")
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    length = inputs["input_ids"].shape[1]
    if length == 0:
        raise ValueRangeError("the prompt has no tokens", found=repr(prompt))
    if temperature > 0 and seed is not None:
        torch.manual_seed(seed)
    last = inputs["input_ids"][0, -1:]
    clock = _Clock(None if on_text is None else _TextCallback(tokenizer, last, on_text))
    began = time.perf_counter()
    common = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "max_new_tokens": max_new_tokens,
        "streamer": clock,
    }
    with torch.inference_mode():
        if decoder is not None:
            sampling = Sampling(temperature, top_p=top_p) if temperature > 0 else None
            output = decoder.generate(**common, sampling=sampling)
        else:
            drawing = {"temperature": temperature, "top_p": top_p} if temperature > 0 else {}
            output = model.generate(**common, use_cache=True, do_sample=temperature > 0, **drawing)
    known = tokenizer.decode(last, skip_special_tokens=True)
    text = tokenizer.decode(output[0, length - 1 :], skip_special_tokens=True)
    return Generation(
        text=text[len(known) :],
        prompt_tokens=length,
        new_tokens=output.shape[1] - length,
        prefill_seconds=clock.times[0] - began,
        decode_seconds=clock.times[-1] - clock.times[0],
    )


def decode_seconds(model: Any, input_ids: torch.Tensor, new_tokens: int) -> float:
    """Seconds per token of a greedy ``generate`` of exactly ``new_tokens`` tokens, without prefill and first
    token.

    Args:
        model: a model, or the FastDecoder of one.
        input_ids: the prompt, [1, length].
    """
    clock = _Clock()
    if isinstance(model, FastDecoder):
        model.generate(input_ids, max_new_tokens=new_tokens, eos_token_id=(), streamer=clock)
        return _pace(clock)
    with torch.inference_mode():
        model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            # Nothing ends the text. `min_new_tokens` would see to that with passes over the vocabulary.
            eos_token_id=model.config.get_text_config(decoder=True).vocab_size,
            pad_token_id=0,
            do_sample=False,
            use_cache=True,
            streamer=clock,
        )
    return _pace(clock)


def _pace(clock: _Clock) -> float:
    return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)
