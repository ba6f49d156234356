"""Inside transformers' `generate`: which calls of a model are steps, and standing in for the model's methods.

    model.generate -> model(...) -+-> a token for every sequence, after others: the compiled step
                                  +-> prompts, and whatever is unusual:         the model's own forward

Keys and values belong to generate's cache; after a step its layers view the step's buffers, until generate
returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lowbit.decoding.cache import MAX_BATCH
from lowbit.errors import LowbitError

_PARAMETERS = ("input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "return_dict")
_ROWS = "logits_to_keep"  # of one token there is one row
_REPLACED = (DynamicLayer, DynamicSlidingWindowLayer)
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_router_logits")


class FullLayer(DynamicLayer):
    """Keeps all positions, as the buffers of a step do, also where the model looks through a window."""


class Step(NamedTuple):
    """A step: one token for every sequence after those in the cache."""

    tokens: Tensor  # int64 [batch, 1]
    mask: Tensor | None  # [batch, positions with the new one], 0 where a prompt is padded
    position_ids: Tensor | None  # int64 [batch, 1]
    cache: DynamicCache  # of as many positions as were seen


class StandIn:
    """A function in place of a method of a model.

    Args:
        function: takes the method, then what the method is called with.
    """

    def __init__(self, model: Any, method: str, function: Callable[..., Any]) -> None:
        self._model = model
        self._method = method
        self._function = function
        self._before = vars(model).get(method)
        self._own: Callable[..., Any] = getattr(model, method)
        functools.update_wrapper(self, self._own, updated=())  # `generate` reads forward's parameters

    def __enter__(self) -> None:
        setattr(self._model, self._method, self)

    def __exit__(self, *error: object) -> None:
        if vars(self._model).get(self._method) is not self:
            return  # somebody has set another one, which may call this one
        if self._before is None:
            delattr(self._model, self._method)
        else:
            setattr(self._model, self._method, self._before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._own, *args, **kwargs)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise LowbitError("a copy of this model would run the original: copy it outside of in_generate")

    def __reduce__(self) -> NoReturn:
        raise LowbitError("a model cannot be pickled inside of in_generate")


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """The model is without a stand-in for its forward meanwhile."""
    stand_in = vars(model).get("forward")
    if not isinstance(stand_in, StandIn):
        yield
        return
    stand_in.__exit__()
    try:
        yield
    finally:
        stand_in.__enter__()


def as_step(model: Any, kwargs: Mapping[str, Any]) -> Step | None:
    """A call of the model as a step; None if it is something else, or asks for more than logits.

    Hooks of the model itself are in the compiled code, and would run around it once more.
    """
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or model.training:
        return None
    if model._forward_hooks or model._forward_pre_hooks:
        return None
    config = model.config
    given: list[Any] = [kwargs.get(name) for name in _PARAMETERS]
    tokens, mask, position_ids, cache, use_cache, return_dict = given
    others = set(kwargs) - {*_PARAMETERS, _ROWS}
    extras = [*map(kwargs.get, others), *(getattr(config, name, None) for name in _OUTPUTS)]
    if return_dict is None:
        return_dict = config.return_dict
    if use_cache is False or not return_dict or not all(extra is None or extra is False for extra in extras):
        return None
    if not isinstance(kwargs.get(_ROWS, 0), int):
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
    if not layers or not all(type(layer) is FullLayer and layer.keys is not None for layer in layers):
        return False
    return {layer.keys.shape[0] for layer in layers} == {batch} and len(
        {states.shape[2] for layer in layers for states in (layer.keys, layer.values)}
    ) == 1


def keep_all_positions(cache: object) -> None:
    """Gives a cache with nothing in it layers that can take part in steps."""
    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length() != 0:
        return
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = FullLayer
    if all(type(layer) in _REPLACED for layer in cache.layers):
        cache.layers = [FullLayer() for _ in cache.layers]
