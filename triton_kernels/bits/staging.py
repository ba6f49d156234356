"""Prepared activations: where the prologue writes and the products read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import Call
from .config import GROUP_INPUTS, SPAN_INPUTS, prologue_blocks
from .layer import BitsLayer
from .prologue import EXACT, FAST, prologue
from .subnormal import size as subnormal_size


class Kind(NamedTuple):
    """What becomes of activations: a position in lowbit.formats.PRECISIONS, or 1..8 bits of bipolar codes."""

    precision: int
    bits: int

    @property
    def exact(self) -> bool:
        return self.precision == EXACT.value and self.bits == 0

    @property
    def by_groups(self) -> bool:
        """With a scale for every 128 inputs."""
        return self.precision == FAST.value and self.bits == 0

    @property
    def columns(self) -> int:
        """int8 columns of a token; two stand for 256 v0 + v1."""
        return 2 if self.bits == 8 or (self.bits == 0 and not (self.by_groups or self.exact)) else 1


class Columns(NamedTuple):
    """Activations of all tokens, one set per segment with experts, else one for all.

    Kp is in_features rounded up to 1024; inputs that pad have code 0. A token with a non-finite activation
    has codes 0 and scales NaN.

        codes         int8 [sets, M * columns, Kp], or for `exact` the values, float32, of which such a token
                      has only NaN
        token_scales  float32 [sets, M, 1 or Kp / 128], or what subnormal.py draws
        rests         what products with stored digits lack (fields.correction_of), in units of a product:
                      float32 [sets, M, units], or for sums in integers twice that, int64, unscaled
        sums          the same of what offsets are multiplied by
        gates         float32 [sets, M, experts] of mixed scales
    """

    codes: Tensor
    token_scales: Tensor | None
    rests: Tensor | None
    sums: Tensor | None
    gates: Tensor | None


def stage(
    x: Tensor, layer: BitsLayer, kind: Kind, unit: int, integers: bool, subnormal: bool = False
) -> tuple[Columns, Call]:
    """Where x [M, K] is prepared for a product, and what does it; `unit` inputs per value of rests and sums.

    A unit of 0 is the row. With `subnormal` the scales are those of subnormal.py.
    """
    tokens, in_features = x.shape
    sets = layer.sets
    padded = -(-in_features // SPAN_INPUTS) * SPAN_INPUTS

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(sets, *shape, dtype=dtype, device=x.device)

    gates = empty(torch.float32, tokens, layer.experts) if layer.experts > 1 else None
    if kind.exact:
        out = Columns(empty(torch.float32, tokens, padded), None, None, None, gates)
    else:
        units = padded // unit if unit else 1
        in_scales = subnormal and unit > 0  # rests
        dtype = torch.int64 if integers else torch.float32
        if subnormal:
            size = subnormal_size(sets, tokens, padded // SPAN_INPUTS, grouped=unit > 0)
            scales = torch.empty(size, dtype=torch.float32, device=x.device)
        else:
            scales = empty(torch.float32, tokens, padded // GROUP_INPUTS if kind.by_groups else 1)
        out = Columns(
            empty(torch.int8, tokens * kind.columns, padded),
            scales,
            None if in_scales else empty(dtype, tokens, units),
            None if in_scales else empty(dtype, tokens, units),
            gates,
        )
    block, route = prologue_blocks(in_features, layer.experts)
    arguments = (x, layer.router, layer.in_scales, *out, x.stride(0), x.stride(1), in_features, padded)
    constexprs = {
        "EXPERTS": layer.experts,
        "PRECISION": kind.precision,
        "ACTIVATION_BITS": kind.bits,
        "WIDTHS": layer.widths,
        "UNIT": unit,
        "INTEGERS": integers,
        "SUBNORMAL": subnormal,
        "BLOCK": block,
        "ROUTE": route,
    }
    offset_factor = 2.0 ** -(layer.dropped_bits + 1)
    grid = (tokens, sets)
    return out, Call(prologue, grid, (*arguments, offset_factor), constexprs, {"num_warps": 8})
