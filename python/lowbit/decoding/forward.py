"""A model's `forward` that takes single tokens elsewhere, so that transformers' `generate` does.

    generate -> model(...) -> Forward -+-> a token for every sequence, after others: the compiled step
                                       +-> prompts, and whatever is unusual:         the model's own forward

Keys and values belong to the caller's cache all the time; after a step its layers view the step's buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from lowbit.decoding.cache import MAX_BATCH
from lowbit.errors import LowbitError

_PARAMETERS = ("input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "return_dict")
_WITHOUT_EFFECT = ("logits_to_keep",)  # of one token there is one row of logits
_REPLACED = (DynamicLayer, DynamicSlidingWindowLayer)
_OUTPUTS = ("output_attentions", "output_hidden_states")


class FullLayer(DynamicLayer):
    """Keeps all positions, as the buffers of a step do, also where the model looks through a window."""


class Step(NamedTuple):
    """A step: one token for every sequence after those in the cache."""

    tokens: Tensor  # int64 [batch, 1]
    mask: Tensor | None  # [batch, positions with the new one], 0 where a prompt is padded
    position_ids: Tensor | None  # int64 [batch, 1]
    cache: DynamicCache  # of as many positions as were seen


class Forward:
    """Stands in for the `forward` of a model between `enter` and `leave`.

    Args:
        step: logits [batch, vocabulary] of the parts of a `Step`.
    """

    def __init__(self, model: Any, step: Callable[..., Tensor]) -> None:
        self._model = model
        self._step = step
        self._own: Callable[..., Any] = model.forward
        self._before = vars(model).get("forward")
        functools.update_wrapper(self, self._own, updated=())  # `generate` reads its parameters

    def enter(self) -> None:
        """
        Raises:
            LowbitError: another one is there.
        """
        if isinstance(self._before, Forward):
            raise LowbitError("a decoder is in this model's generate already")
        self._model.forward = self

    def leave(self) -> None:
        if self._before is None:
            del self._model.forward
        else:
            self._model.forward = self._before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = None if args or torch.is_grad_enabled() else _as_step(kwargs, self._model.config)
        if given is None:
            _keep_all_positions(kwargs.get("past_key_values"))
            return self._own(*args, **kwargs)
        logits = self._step(*given).unsqueeze(1)
        return CausalLMOutputWithPast(logits=logits, past_key_values=given.cache)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise LowbitError("a copy of this model would run the original: copy it outside of in_generate")

    def __reduce__(self) -> NoReturn:
        raise LowbitError("a model cannot be pickled inside of in_generate")


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """The model is without a `Forward` meanwhile."""
    forward = vars(model).get("forward")
    if not isinstance(forward, Forward):
        yield
        return
    forward.leave()
    try:
        yield
    finally:
        forward.enter()


def _as_step(kwargs: Mapping[str, Any], config: Any) -> Step | None:
    """The call as a step; None if it is something else, or asks for more than logits."""
    given: list[Any] = [kwargs.get(name) for name in _PARAMETERS]
    tokens, mask, position_ids, cache, use_cache, return_dict = given
    others = set(kwargs) - {*_PARAMETERS, *_WITHOUT_EFFECT}
    extras = [*map(kwargs.get, others), *(getattr(config, name, None) for name in _OUTPUTS)]
    if return_dict is None:
        return_dict = config.return_dict
    if use_cache is False or not return_dict or not all(extra is None or extra is False for extra in extras):
        return None
    batch = len(tokens) if isinstance(tokens, Tensor) else 0
    if not 1 <= batch <= MAX_BATCH or not _is_like(tokens, (batch, 1)):
        return None
    if not _holds_all_positions(cache, batch):
        return None
    positions = cache.get_seq_length() + 1
    if not (mask is None or _is_like(mask, (batch, positions))):
        return None
    if not (position_ids is None or _is_like(position_ids, (batch, 1), (1, 1))):
        return None
    return Step(tokens, mask, position_ids, cache)


def _is_like(value: Any, *shapes: tuple[int, ...]) -> bool:
    if not isinstance(value, Tensor):
        return False
    return not value.is_floating_point() and tuple(value.shape) in shapes


def _holds_all_positions(cache: Any, batch: int) -> bool:
    """Whether that is a cache with at least one position of so many sequences."""
    layers: list[Any] = cache.layers if type(cache) is DynamicCache else []
    return bool(layers) and all(
        type(layer) is FullLayer and layer.keys is not None and layer.keys.shape[0] == batch
        for layer in layers
    )


def _keep_all_positions(cache: object) -> None:
    """Gives a cache with nothing in it layers that can take part in steps."""
    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length() != 0:
        return
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = FullLayer
    if all(type(layer) in _REPLACED for layer in cache.layers):
        cache.layers = [FullLayer() for _ in cache.layers]
