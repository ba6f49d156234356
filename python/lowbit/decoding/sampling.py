"""The next token from logits."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from lowbit.errors import ValueRangeError

# Most likely tokens looked at first: sorting a vocabulary of 262,144 would take longer than the model.
_CANDIDATES = 1024


_ROW = 512


def most_likely(logits: Tensor) -> Tensor:
    """argmax of logits [batch, vocabulary] -> int64 [batch, 1], the first one where several are equal.

    In two steps, the largest of each row of up to 512, then where it is: compiled code finds a maximum with
    vectors, and its position one value at a time.
    """
    width = gcd(logits.shape[-1], _ROW)
    rows = logits.unflatten(-1, (-1, width))
    row = rows.amax(dim=-1).argmax(dim=-1, keepdim=True)
    place = rows.take_along_dim(row.unsqueeze(-1), dim=1).argmax(dim=-1)
    return row * width + place


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the same distributions as transformers' `generate`.

    Attributes:
        temperature: above 0.
        top_k: draw among so many of the most likely tokens; 0: all.
        top_p: draw among the fewest tokens whose probabilities sum to at least this.
        generator: of the random numbers; None is torch's default.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueRangeError("temperature out of range", found=self.temperature, allowed="above 0")
        if self.top_k < 0:
            raise ValueRangeError("top_k out of range", found=self.top_k, allowed="0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueRangeError("top_p out of range", found=self.top_p, allowed="above 0, up to 1")

    def draw(self, logits: Tensor) -> Tensor:
        """logits [batch, vocabulary] -> int64 [batch, 1]."""
        scores = logits.float() / self.temperature
        ids = None
        if self.top_k:
            scores, ids = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        probabilities = scores.softmax(dim=-1)
        if self.top_p < 1:
            probabilities, nucleus = self._nucleus(probabilities)
            ids = nucleus if ids is None else ids.gather(-1, nucleus)
        drawn = torch.multinomial(probabilities, 1, generator=self.generator)
        return drawn if ids is None else ids.gather(-1, drawn)

    def _nucleus(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities in descending order with those outside the nucleus 0, and their positions."""
        vocabulary = probabilities.shape[-1]
        likely, ids = probabilities.topk(min(_CANDIDATES, vocabulary), dim=-1)
        if bool((likely.sum(dim=-1) < self.top_p).any()):  # a nucleus reaches beyond them
            likely, ids = probabilities.sort(dim=-1, descending=True)
        before = likely.cumsum(dim=-1) - likely
        return likely.masked_fill(before >= self.top_p, 0), ids
