"""Decode speed and size of several models side by side: one process, alternating, medians with spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from lowbit.errors import ValueRangeError
from lowbit.generation import decode_seconds
from lowbit.modules import PackedModule

_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class DecodeSpeed:
    """Milliseconds per token, one figure per round (the mean over that round's tokens)."""

    rounds: tuple[float, ...]

    @property
    def ms_per_token(self) -> float:
        return median(self.rounds)

    @property
    def tokens_per_second(self) -> float:
        return 1000 / self.ms_per_token

    def times_faster_than(self, other: DecodeSpeed) -> float:
        """Median of the ratios of rounds that ran next to each other."""
        return median(theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True))

    def to_dict(self) -> dict[str, object]:
        return {
            "tokens_per_second": self.tokens_per_second,
            "ms_per_token": self.ms_per_token,
            "ms_per_token_min": min(self.rounds),
            "ms_per_token_max": max(self.rounds),
            "ms_per_token_rounds": list(self.rounds),
        }


def decode_speed(
    models: Mapping[str, Any],
    input_ids: torch.Tensor,
    *,
    new_tokens: int = 64,
    rounds: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, DecodeSpeed]:
    """Greedy decode speed at batch 1 of every model, by transformers' ``generate`` with its default cache.

    Every round runs all models once, in the same order, so that what disturbs the machine disturbs them
    alike.

    Args:
        input_ids: the prompt, [1, length].
        progress: called with (runs done, runs in all).

    Raises:
        ValueRangeError: fewer than two tokens or no round.
    """
    if new_tokens < 2:
        raise ValueRangeError("too few tokens to time", found=new_tokens, allowed="2 or more")
    if rounds < 1:
        raise ValueRangeError("no round to time", found=rounds, allowed="1 or more")
    for model in models.values():
        decode_seconds(model, input_ids, _WARM_UP_TOKENS)
    times: dict[str, list[float]] = {name: [] for name in models}
    for index in range(rounds):
        for position, (name, model) in enumerate(models.items()):
            times[name].append(1000 * decode_seconds(model, input_ids, new_tokens))
            if progress is not None:
                progress(index * len(models) + position + 1, rounds * len(models))
    return {name: DecodeSpeed(tuple(values)) for name, values in times.items()}


@dataclass(frozen=True)
class WeightSize:
    """What a model's weights take. ``bytes`` counts every parameter and buffer once, as held in memory (tied
    tensors once, padding of packed tiles included); ``bits_per_weight`` covers the weight matrices of linears
    and embeddings, with everything their packed form needs."""

    bytes: int
    bits_per_weight: float


def weight_size(model: nn.Module) -> WeightSize:
    """Size of a model's weights, packed or not."""
    tensors = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel()): tensor.nbytes
        for tensor in [*model.parameters(), *model.buffers()]
        if tensor.numel()
    }
    bits = weights = 0.0
    seen = set()
    for module in model.modules():
        matrix = _weight_matrix(module)
        if matrix is None or matrix[0] in seen:
            continue
        seen.add(matrix[0])
        weights += matrix[1]
        bits += matrix[1] * matrix[2]
    return WeightSize(bytes=sum(tensors.values()), bits_per_weight=bits / weights if weights else 0.0)


def _weight_matrix(module: nn.Module) -> tuple[int, int, float] | None:
    """(identity, weights, bits per weight) of a linear or an embedding, packed or not; None for all else."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return None
    if isinstance(module, PackedModule):
        return weight.data_ptr(), module.out_features * module.in_features, module.bits_per_weight
    if weight.dim() == 2:
        return weight.data_ptr(), weight.numel(), 8.0 * weight.element_size()
    return None
