"""Keys and values of a model in buffers that stay in place, as a compiled step needs them.

Every layer has room for `capacity` positions; a step reads the first `length` of them:

    keys, values [batch, heads, capacity, head_dim]  |#### seen ####|new|..|..... free .....|
    read by a step                                    <------- length ----->  a multiple of BUCKET

Layers with a sliding window keep all positions as well; the model's own mask hides those that have left it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

BUCKET = 256  # positions; so often the compiled step is called with another length


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
        self.keys = [_room_for(keys, capacity) for keys in _states(prompt, "keys")]
        self.values = [_room_for(values, capacity) for values in _states(prompt, "values")]

    def take(self, prompt: DynamicCache) -> None:
        """Copies a prompt's keys and values to the front."""
        given = (*_states(prompt, "keys"), *_states(prompt, "values"))
        for buffer, states in zip((*self.keys, *self.values), given, strict=True):
            buffer[:, :, : states.shape[2]] = states

    def seen(self, mask: Tensor, length: int) -> Tensor:
        """bool [batch, length], the front of the mask; one tensor for every length."""
        if length not in self._seen:
            self._seen[length] = torch.empty(len(mask), length, dtype=torch.bool)
            torch._dynamo.mark_dynamic(self._seen[length], 1)
        return self._seen[length].copy_(mask[:, :length])


def _states(prompt: DynamicCache, name: str) -> list[Tensor]:
    return [getattr(layer, name) for layer in prompt.layers]


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
