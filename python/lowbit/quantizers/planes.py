"""Bit planes without data: scales (and offsets) per group that minimise the squared error.

The grid of a group is s * (v + o) with v odd, |v| <= 2^B - 1. Its best s has no closed form; so per group:

    1. shrink the range by a ladder of fractions: clipping a few large weights often pays for a finer grid. An
       asymmetric grid shrinks both ends independently. Each candidate is rounded to the stored dtype before
       it is judged, so that what is compared is what will be stored.
    2. refine: the codes of the best candidate held, the best s (and o) is a least-squares fit; it is kept
       where the error, with new codes, got smaller.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from lowbit.formats.base import SCALE_DTYPES, check_group_size
from lowbit.formats.bits import pack_codes
from lowbit.formats.planes import Planes
from lowbit.quantizers.common import check_weight, one_thread, row_chunks, split_groups, to_stored

# Down to 0.15 of the largest weight: few bits and long, heavy-tailed rows clip that much.
_SYMMETRIC_FRACTIONS = tuple(0.92**i for i in range(24))
_END_FRACTIONS = tuple(0.85**i for i in range(6))
_REFINEMENTS = 2
# A group far from 0 gets a step of at least this part of its middle, so that the offset fits int16.
_LARGEST_OFFSET = 1 << 14


@one_thread()
def quantize_planes(
    weight: Tensor, bits: int, group_size: int, asymmetric: bool, scale_dtype: str, layer: str | None
) -> Planes:
    """Bit planes with scales per group, and offsets if asymmetric; see schemes.BipolarInt."""
    check_group_size(group_size, layer=layer)
    weight = check_weight(weight, layer)
    dtype = SCALE_DTYPES[scale_dtype]
    planes, scales, offsets = [], [], []
    for _, rows in row_chunks(weight):
        to_stored(rows.abs().amax() / (2**bits - 1), scale_dtype, layer)
        fits = [_GridFit(part, bits, dtype) for part in split_groups(rows, group_size)]
        for fit in fits:
            if asymmetric:
                fit.search_asymmetric()
            else:
                fit.search_symmetric()
        planes.append(pack_codes(torch.cat([fit.codes() for fit in fits], dim=1), bits))
        scales.append(torch.cat([fit.scales for fit in fits], dim=1).to(dtype))
        offsets.append(torch.cat([fit.offsets for fit in fits], dim=1).to(torch.int16))
    return Planes(
        torch.cat(planes, dim=1),
        torch.cat(scales),
        weight.shape[1],
        group_size,
        torch.cat(offsets) if asymmetric else None,
    )


class _GridFit:
    """The best grid found so far for each group.

    Attributes:
        groups: float32 [n, G, g].
        scales, offsets, errors: float32 [n, G]; scales hold values of the stored dtype, offsets integers.
    """

    def __init__(self, groups: Tensor, bits: int, dtype: torch.dtype) -> None:
        self.groups = groups
        self._largest = 2**bits - 1
        self._dtype = dtype
        self.scales = torch.zeros(groups.shape[:2], device=groups.device)
        self.offsets = torch.zeros_like(self.scales)
        # With scale 0 every weight becomes 0.
        self.errors = groups.square().sum(-1)
        # Reused by every candidate: fresh memory would cost more than the arithmetic.
        self._positions, self._halves = torch.empty_like(groups), torch.empty_like(groups)

    def search_symmetric(self) -> None:
        magnitudes = self.groups.abs()
        # All weights clipped: best for one bit, and below the ladder where the tail is heavy.
        self._try(magnitudes.mean(-1) / self._largest, self.offsets)
        widest = magnitudes.amax(-1) / self._largest
        for fraction in _SYMMETRIC_FRACTIONS:
            self._try(widest * fraction, self.offsets)
        for _ in range(_REFINEMENTS):
            self._try(self._fit_scale(), self.offsets)

    def search_asymmetric(self) -> None:
        low, high = self.groups.amin(-1), self.groups.amax(-1)
        for below, above in product(_END_FRACTIONS, repeat=2):
            first, last = low * below, high * above
            self._try_around((first + last) / 2, (last - first) / (2 * self._largest))
        for _ in range(_REFINEMENTS):
            self._try_around(*self._fit_line())
            self._try(self._fit_scale(), self.offsets)

    def codes(self) -> Tensor:
        """uint8 [n, G * g] on the best grid."""
        _, halves = self._round(self.scales, self.offsets)
        return (halves + self._largest / 2).to(torch.uint8).flatten(1)

    def _round(self, scales: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and nearest grid points in units of the step 2 s: (w / 2s - o / 2, v / 2), [n, G, g].

        Both live in buffers that the next call overwrites.
        """
        inverse = (0.5 / scales).nan_to_num_(posinf=0.0)
        positions = torch.mul(self.groups, inverse.unsqueeze(-1), out=self._positions)
        if offsets.any():
            positions -= (offsets / 2).unsqueeze(-1)
        edge = (self._largest + 1) // 2
        return positions, torch.floor(positions, out=self._halves).clamp_(-edge, edge - 1).add_(0.5)

    def _try(self, scales: Tensor, offsets: Tensor) -> None:
        """Adopt this grid in the groups where it is better."""
        scales = scales.to(self._dtype).float()
        positions, halves = self._round(scales, offsets)
        errors = positions.sub_(halves).square_().sum(-1) * (2 * scales).square()
        better = (errors < self.errors) & (scales > 0)
        self.errors = torch.where(better, errors, self.errors)
        self.scales = torch.where(better, scales, self.scales)
        self.offsets = torch.where(better, offsets, self.offsets)

    def _try_around(self, middle: Tensor, scales: Tensor) -> None:
        scales = torch.maximum(scales, middle.abs() / _LARGEST_OFFSET).to(self._dtype).float()
        self._try(scales, (middle / scales).nan_to_num_(0.0, 0.0, 0.0).round())

    def _fit_scale(self) -> Tensor:
        """Least-squares s for w ~ s (v + o), codes and offsets held."""
        _, halves = self._round(self.scales, self.offsets)
        points = halves.mul_(2).add_(self.offsets.unsqueeze(-1))
        return ((self.groups * points).sum(-1) / points.square().sum(-1)).nan_to_num_(0.0)

    def _fit_line(self) -> tuple[Tensor, Tensor]:
        """Least-squares (middle, s) for w ~ s v + middle, codes held."""
        _, halves = self._round(self.scales, self.offsets)
        values = halves.mul_(2)
        mean_value, mean_weight = values.mean(-1), self.groups.mean(-1)
        spread = values - mean_value.unsqueeze(-1)
        scales = ((self.groups * spread).sum(-1) / spread.square().sum(-1)).nan_to_num_(0.0)
        return mean_weight - scales * mean_value, scales
