"""`fast_decode`: a language model's generation loop around a compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from lowbit.decoding.cache import BUCKET, MAX_BATCH, Buffers
from lowbit.decoding.calls import StandIn, as_step, keep_all_positions, own_forward
from lowbit.decoding.sampling import Sampling
from lowbit.decoding.step import CompiledStep, require_compiler
from lowbit.errors import LowbitError, ShapeError, UnsupportedLayerError, ValueRangeError

_LAYER_TYPES = ("full_attention", "sliding_attention")


def fast_decode(model: Any) -> FastDecoder:
    """A generation loop for `model` that spends its time in the linear layers.

    One token's forward pass is compiled as a whole by torch.compile, once for every batch size, and
    positions advance without another compilation. Compiling takes from half a minute (270M parameters) to
    minutes, in the first `generate` or in `warm_up`; torch keeps the result on disk, which saves most of it
    the next time. The model itself is not changed, and its own `generate` works as before. After a change to
    it (`active_bits`, an adapter, a hook) the next `generate` compiles again.

    Args:
        model: a causal language model of transformers on the CPU, packed or not, in evaluation mode.

    Raises:
        BackendError: there is no C++ compiler.
        UnsupportedLayerError: not a decoder with ordinary or sliding-window attention in every layer.
    """
    return FastDecoder(model)


class FastDecoder:
    """See `fast_decode`.

    Attributes:
        model: the model.
        compile_seconds: spent on compiling, by batch size.
    """

    def __init__(self, model: Any) -> None:
        _check_model(model)
        require_compiler()
        self.model = model
        self.compile_seconds: dict[int, float] = {}
        self._steps: dict[int, CompiledStep] = {}
        self._buffers: dict[int, Buffers] = {}
        self._failures: dict[int, str] = {}  # batch sizes whose steps cannot be compiled, and why
        self._lock = Lock()

    @property
    def refusals(self) -> dict[int, str]:
        """Batch sizes whose steps run through Python, which takes longer, and why they cannot be recorded.

        Within `in_generate` also those that cannot be compiled, and run as the model does.
        """
        found = {batch: step.refusal for batch, step in self._steps.items() if step.refusal is not None}
        return found | self._failures

    def time_step(self, batch_size: int = 1) -> list[tuple[str, float]]:
        """Repeats the last recorded step of this batch size; compiles and records one if there is none.

        Returns:
            What ran, in its order: an operator, "compiled" or "Python", and its seconds.

        Raises:
            LowbitError: steps of this batch size cannot be recorded.
        """
        self.warm_up(batch_size)
        step = self._steps[batch_size]
        if step.latest is None and step.refusal is None:
            self._generate_a_little(batch_size)
        if step.latest is None:
            raise LowbitError(f"steps for {batch_size} sequences are not recorded: {step.refusal}")
        with self._alone():
            return step.latest.replay.time()

    def warm_up(self, batch_size: int = 1) -> float:
        """Compiles for this batch size unless that is done; returns the seconds it took."""
        self._drop_stale(batch_size)
        if batch_size not in self.compile_seconds:
            self._generate_a_little(batch_size)
        return self.compile_seconds[batch_size]

    @torch.inference_mode(False)  # its tensors stay with the decoder: they must be ordinary ones
    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        streamer: Any = None,
    ) -> Tensor:
        """Continues prompts, as transformers' `generate` does.

        Args:
            input_ids: int64 [batch, length], batch 1..16; shorter prompts are padded on the left.
            attention_mask: [batch, length], 0 where input_ids are padding; None: nowhere.
            max_new_tokens: 1 or more.
            sampling: how tokens are drawn; None takes the most likely one.
            eos_token_id: tokens that end a sequence; None: the model's own; (): no token does.
            pad_token_id: what follows a sequence that has ended; None: the model's own, else the first of
                eos_token_id.
            streamer: of transformers; `put` gets the prompts, then every step's tokens [batch].

        Returns:
            int64 [batch, length + new tokens]; stops early when all sequences have ended.

        Raises:
            ShapeError, ValueRangeError: an argument is out of its range.
            LowbitError: this decoder is generating already.
        """
        _check_model(self.model)
        _check_prompt(input_ids, attention_mask, max_new_tokens)
        with self._alone():
            self._drop_stale(len(input_ids))
            ends = self._ends(eos_token_id)
            pad = self._pad(pad_token_id, ends)
            return self._continue(input_ids, attention_mask, max_new_tokens, sampling, ends, pad, streamer)

    @contextmanager
    def in_generate(self) -> Iterator[None]:
        """The model's own `generate` takes its steps from here meanwhile, with all that it can do otherwise:

            with decoder.in_generate():
                model.generate(**inputs, do_sample=True, repetition_penalty=1.1, stopping_criteria=criteria)

        A step is one new token for each of 1..16 sequences. Prompts, several tokens at once and all other
        calls run as they do without, and so do models with hooks of their own, `generate` in a second thread
        at the same time, and steps that cannot be compiled (`refusals` says why). The first step for a batch
        size compiles, as `warm_up` does; hooks of the model's layers are compiled in, and what they do beside
        computing is not repeated. Layers with a sliding window keep all positions.

        Raises:
            LowbitError: a decoder is in the model's `generate` already.
        """
        _check_model(self.model)
        if isinstance(vars(self.model).get("generate"), StandIn):
            raise LowbitError("a decoder is in this model's generate already")
        with StandIn(self.model, "generate", self._generate_with_steps):
            yield

    def _generate_with_steps(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._lock.acquire(blocking=False):
            return generate(*args, **kwargs)
        thread = get_ident()

        def forward(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if get_ident() != thread:
                return own(*args, **kwargs)
            step = None if args else as_step(self.model, kwargs)
            logits = None if step is None else self._step_of_model(*step)
            if step is None or logits is None:
                keep_all_positions(kwargs.get("past_key_values"))
                return own(*args, **kwargs)
            return CausalLMOutputWithPast(logits=logits.unsqueeze(1), past_key_values=step.cache)

        try:
            with StandIn(self.model, "forward", forward):
                return generate(*args, **kwargs)
        finally:
            for buffers in self._buffers.values():
                buffers.end_loan()
            self._lock.release()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _step_of_model(
        self, tokens: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache
    ) -> Tensor | None:
        """Logits [batch, vocabulary] of the tokens [batch, 1] that follow what is cached, which they join.

        None: there is no step for so many sequences.
        """
        batch, seen = len(tokens), cache.get_seq_length()
        buffers = self._buffers.get(batch)
        if buffers is None or not buffers.has_lent(cache) or buffers.capacity < _capacity_for(seen + 1):
            self._drop_stale(batch)
            if batch in self._failures:
                return None
            buffers = self._buffers_for(cache, batch, seen + 1)
        buffers.position.fill_(seen)
        buffers.position_ids.copy_(buffers.position if position_ids is None else position_ids)
        read = buffers.seen(tokens[:, :0] if mask is None else mask, (seen // BUCKET + 1) * BUCKET)
        try:
            logits, _ = self._take_step(tokens.to(torch.int64, copy=True), buffers, read)
        except UnsupportedLayerError as reason:
            self._failures[batch] = str(reason)
            return None
        buffers.lend(cache, seen + 1)
        return logits.clone()

    def _continue(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        max_new_tokens: int,
        sampling: Sampling | None,
        ends: frozenset[int],
        pad: int,
        streamer: Any,
    ) -> Tensor:
        if streamer is not None:
            streamer.put(input_ids.cpu())
        run = _Run(self, input_ids, attention_mask, max_new_tokens)
        tokens = [input_ids]
        ended = [False] * len(input_ids)
        for index in range(max_new_tokens):
            logits, best = run.prefill() if index == 0 else run.step(tokens[-1])
            if sampling is not None:
                best = sampling.draw(logits)
            if any(ended):
                best = best.masked_fill(torch.tensor(ended).unsqueeze(1), pad)
            tokens.append(best)
            ended = [over or token in ends for over, (token,) in zip(ended, best.tolist(), strict=True)]
            if streamer is not None:
                streamer.put(best[:, 0])
            if all(ended):
                break
        if streamer is not None:
            streamer.end()
        return torch.cat(tokens, dim=1)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keys, values and what steps compute are there once for every batch size."""
        if not self._lock.acquire(blocking=False):
            raise LowbitError("this decoder is generating already; fast_decode(model) makes another one")
        try:
            yield
        finally:
            self._lock.release()

    def _drop_stale(self, batch: int) -> None:
        with own_forward(self.model):
            if batch in self._steps and not self._steps[batch].is_current():
                del self._steps[batch], self.compile_seconds[batch], self._buffers[batch]

    def _buffers_for(self, cache: DynamicCache, batch: int, positions: int) -> Buffers:
        """Buffers with what the cache holds, and room for so many positions in all."""
        capacity = _capacity_for(positions)
        buffers = self._buffers.get(batch)
        if buffers is None or not buffers.fit(cache):
            buffers = self._buffers[batch] = Buffers(cache, batch, capacity)
        elif buffers.capacity < capacity:  # positions may advance without end
            buffers = self._buffers[batch] = Buffers(cache, batch, max(capacity, 2 * buffers.capacity))
        buffers.take(cache)
        return buffers

    def _take_step(self, tokens: Tensor, buffers: Buffers, seen: Tensor) -> tuple[Tensor, Tensor]:
        arguments = (
            tokens,
            buffers.position,
            buffers.position_ids,
            seen,
            buffers.keys,
            buffers.values,
        )
        batch = len(tokens)
        if batch in self._steps:
            return self._steps[batch](*arguments)
        from torch._dynamo.exc import TorchDynamoException

        with own_forward(self.model):
            step = CompiledStep(self.model)
            began = time.perf_counter()
            try:
                result = step(*arguments)
            except TorchDynamoException as reason:
                raise UnsupportedLayerError(
                    "the model's step cannot be compiled", found=str(reason).partition("\n")[0]
                ) from reason
        self.compile_seconds[batch] = time.perf_counter() - began
        self._steps[batch] = step
        return result

    def _generate_a_little(self, batch: int) -> None:
        """Enough for a compiled and a recorded step."""
        self.generate(torch.zeros(batch, 1, dtype=torch.int64), max_new_tokens=3, eos_token_id=())

    def _ends(self, given: int | Sequence[int] | None) -> frozenset[int]:
        if given is None:
            given = self.model.generation_config.eos_token_id
        if given is None:
            return frozenset()
        return frozenset([given] if isinstance(given, int) else given)

    def _pad(self, given: int | None, ends: frozenset[int]) -> int:
        own = self.model.generation_config.pad_token_id
        return next((token for token in (given, own) if token is not None), min(ends, default=0))


class _Run:
    """One generation: where it is, and what it has seen."""

    def __init__(self, decoder: FastDecoder, ids: Tensor, mask: Tensor | None, new_tokens: int) -> None:
        self._decoder = decoder
        self._ids = ids
        self._mask = mask
        self._new_tokens = new_tokens
        self._seen = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        self._index = ids.shape[1] - 1  # the last position seen
        self._read = self._seen[:, :0]

    def prefill(self) -> tuple[Tensor, Tensor]:
        """Runs the prompts through the model as it is, and keeps their keys and values."""
        decoder = self._decoder
        cache = DynamicCache()
        position_ids = self._seen.cumsum(dim=1) - 1
        logits = decoder.model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=position_ids.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        batch, length = self._ids.shape
        self._buffers = decoder._buffers_for(cache, batch, length + self._new_tokens)
        self._buffers.position.fill_(self._index)
        self._buffers.position_ids.copy_(position_ids[:, -1:])
        return logits, logits.argmax(dim=-1, keepdim=True)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the token after the last one."""
        buffers = self._buffers
        self._index += 1
        buffers.position += 1
        buffers.position_ids += 1
        if self._index >= self._read.shape[1]:
            self._read = buffers.seen(self._seen, (self._index // BUCKET + 1) * BUCKET)
        return self._decoder._take_step(tokens, buffers, self._read)


def _capacity_for(positions: int) -> int:
    # One bucket more than is ever read: torch.compile takes equal sizes for the same size.
    return -(-positions // BUCKET) * BUCKET + BUCKET


def _check_model(model: Any) -> None:
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generation_config") or not hasattr(config, "get_text_config"):
        raise UnsupportedLayerError(
            "fast_decode drives transformers' causal language models",
            found=type(model).__name__,
            allowed="such as AutoModelForCausalLM loads",
        )
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if config.is_encoder_decoder or not kinds <= set(_LAYER_TYPES):
        found = "an encoder" if config.is_encoder_decoder else ", ".join(sorted(kinds))
        raise UnsupportedLayerError(
            "fast_decode keeps keys and values of decoders only", found=found, allowed=", ".join(_LAYER_TYPES)
        )
    if model.device.type != "cpu":
        raise LowbitError(f"fast_decode runs on the CPU, the model is on {model.device}")
    if model.training:
        raise LowbitError("fast_decode needs a model in evaluation mode: call model.eval()")


def _check_prompt(ids: Tensor, mask: Tensor | None, new_tokens: int) -> None:
    if ids.dim() != 2 or not 1 <= ids.shape[0] <= MAX_BATCH or ids.shape[1] < 1:
        raise ShapeError(
            "wrong shape of the prompts", found=list(ids.shape), allowed=f"[1..{MAX_BATCH}, 1 or more]"
        )
    if mask is not None and mask.shape != ids.shape:
        raise ShapeError("wrong shape of the attention mask", found=list(mask.shape), allowed=list(ids.shape))
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueRangeError("prompts padded on the right", allowed="padding on the left")
    if new_tokens < 1:
        raise ValueRangeError(
            "nothing to generate", found=f"max_new_tokens {new_tokens}", allowed="1 or more"
        )
