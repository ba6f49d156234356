"""Keys and values of a model in buffers that stay in place, as a compiled step needs them.

Every layer has room for `capacity` positions; a step reads the first `length` of them:

    keys, values [batch, heads, capacity, head_dim]  |#### seen ####|new|..|..... free .....|
    read by a step                                    <------- length ----->  a multiple of BUCKET

Layers with a sliding window keep all positions as well; the model's own mask hides those that have left it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

BUCKET = 256  # positions; so often the compiled step is called with another length
MAX_BATCH = 16  # sequences at once


class Buffers:
    """The buffers of all layers, of the shapes that a prompt's cache has, and the step's other inputs.

    They are the same tensors for every prompt, so that recordings of steps stay good.

    Attributes:
        keys, values: of every layer.
        position: int64 [1], where the next token goes.
        position_ids: int64 [batch, 1], what the model is told of it.
    """

    def __init__(self, prompt: DynamicCache, batch: int, capacity: int) -> None:
        self.capacity = capacity
        self.position = torch.zeros(1, dtype=torch.int64)
        self.position_ids = torch.zeros(batch, 1, dtype=torch.int64)
        self._seen: dict[int, Tensor] = {}
        self._borrower: weakref.ref[DynamicCache] | None = None
        self._lent: list[tuple[Tensor, Tensor]] = []  # keys and values of its layers
        self.keys = [_room_for(keys, capacity) for keys in _states(prompt, "keys")]
        self.values = [_room_for(values, capacity) for values in _states(prompt, "values")]

    def take(self, prompt: DynamicCache) -> None:
        """Copies a prompt's keys and values to the front. What is lent is copied to its cache before."""
        self.end_loan()
        for buffer, states in zip((*self.keys, *self.values), _states(prompt, "keys", "values"), strict=True):
            buffer[:, :, : states.shape[2]] = states

    def fit(self, prompt: DynamicCache) -> bool:
        """Whether keys and values like the prompt's are kept here."""
        given, buffers = _states(prompt, "keys", "values"), (*self.keys, *self.values)
        return len(given) == len(buffers) and all(
            states.dtype == buffer.dtype and _but_length(states) == _but_length(buffer)
            for states, buffer in zip(given, buffers, strict=True)
        )

    def lend(self, cache: DynamicCache, length: int) -> None:
        """The cache's layers view the first `length` positions from now on, until others are taken."""
        self._borrower = weakref.ref(cache)
        self._lent = [
            (keys[:, :, :length], values[:, :, :length])
            for keys, values in zip(self.keys, self.values, strict=True)
        ]
        for layer, (keys, values) in zip(_layers(cache), self._lent, strict=True):
            layer.keys, layer.values = keys, values

    def has_lent(self, cache: DynamicCache) -> bool:
        """Whether all of what the cache holds is still what it was lent."""
        layers = _layers(cache)
        if self._borrower is None or self._borrower() is not cache or len(layers) != len(self._lent):
            return False
        return all(
            layer.keys is keys and layer.values is values
            for layer, (keys, values) in zip(layers, self._lent, strict=True)
        )

    def end_loan(self) -> None:
        """What is lent is copied to the cache that has it, if that is still there."""
        cache = None if self._borrower is None else self._borrower()
        if cache is not None:
            for layer, keys, values in zip(_layers(cache), self.keys, self.values, strict=False):
                if _same_memory(layer.keys, keys):  # all of them, or what was left by `crop`
                    layer.keys = layer.keys.clone()
                if _same_memory(layer.values, values):
                    layer.values = layer.values.clone()
        self._borrower, self._lent = None, []

    def seen(self, mask: Tensor, length: int) -> Tensor:
        """bool [batch, length], the front of the mask, and all after it; one tensor for every length."""
        if length not in self._seen:
            self._seen[length] = torch.ones(len(mask), length, dtype=torch.bool)
            torch._dynamo.mark_dynamic(self._seen[length], 1)
        seen = self._seen[length]
        known = min(length, mask.shape[1])
        seen[:, :known] = mask[:, :known]
        seen[:, known:] = True
        return seen


def _states(prompt: DynamicCache, *names: str) -> list[Tensor]:
    return [getattr(layer, name) for name in names for layer in _layers(prompt)]


def _layers(cache: DynamicCache) -> list[Any]:
    return cache.layers


def _but_length(states: Tensor) -> tuple[int, ...]:
    batch, heads, _, width = states.shape
    return batch, heads, width


def _same_memory(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _room_for(prompt: Tensor, capacity: int) -> Tensor:
    batch, heads, _, width = prompt.shape
    buffer = prompt.new_zeros(batch, heads, capacity, width)
    torch._dynamo.mark_dynamic(buffer, 2)
    return buffer


class StepLayer(CacheLayerMixin):
    """One layer during one step, as transformers' models see it.

    Args:
        keys, values: its buffers; the new position is written in place.
        position: int64 [1], where that is.
        length: positions to read.
    """

    is_compileable = True  # so that the mask of a single token is made, not assumed
    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor, length: int) -> None:
        self.buffers = keys, values
        self.position, self.length = position, length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers
        keys.index_copy_(2, self.position, key_states)
        values.index_copy_(2, self.position, value_states)
        return keys[:, :, : self.length], values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> Tensor:  # type: ignore[override] # like transformers' own static layers
        return self.position[0]

    def get_max_length(self) -> int:
        return self.length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers are there."""


def step_cache(keys: list[Tensor], values: list[Tensor], position: Tensor, length: int) -> Cache:
    """The cache of one step."""
    pairs = zip(keys, values, strict=True)
    return Cache(layers=[StepLayer(key, value, position, length) for key, value in pairs])
