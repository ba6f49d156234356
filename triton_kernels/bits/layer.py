"""A layer as the kernels of the families signs and planes see it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class BitsLayer(NamedTuple):
    """Weights in digit blocks (lowbit.backends.triton_layout), everything else as in the checkpoint.

    Attributes:
        widths: digits that are multiplied, most significant first: the first of `stored_widths`.
        segments: rows of each of the layers that were fused; they share x.
        router, in_scales: [segments, experts, K], or [experts, K] of one segment.
        out_scales: [experts, N].
    """

    weight: Tensor
    scales: Tensor | None
    offsets: Tensor | None
    router: Tensor | None
    in_scales: Tensor | None
    out_scales: Tensor | None
    bias: Tensor | None
    stored_widths: tuple[int, ...]
    widths: tuple[int, ...]
    segments: tuple[int, ...]
    in_features: int
    group_size: int

    @property
    def out_features(self) -> int:
        return sum(self.segments)

    @property
    def experts(self) -> int:
        return 0 if self.out_scales is None else self.out_scales.shape[0]

    @property
    def sets(self) -> int:
        """Prepared inputs: one for each segment with input scales, else one."""
        return len(self.segments) if self.experts else 1

    @property
    def bits(self) -> int:
        """Of a code, as it is multiplied."""
        return sum(self.widths)

    @property
    def dropped_bits(self) -> int:
        return sum(self.stored_widths) - self.bits

    @property
    def grouped(self) -> bool:
        """With scales inside a row."""
        return self.scales is not None and 0 < self.group_size < self.in_features
