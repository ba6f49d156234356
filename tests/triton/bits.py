"""Layers of the families `signs` and `planes` as the Triton kernels take them, and their products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from lowbit.backends.arguments import PlanesArguments, SignsArguments
from lowbit.backends.cuda import digit_widths
from lowbit.backends.triton_layout import lay_out_bits
from lowbit.formats import Planes, Signs
from lowbit.triton_kernels.bits.layer import BitsLayer
from lowbit.triton_kernels.planes import planes_linear
from lowbit.triton_kernels.signs import signs_linear
from torch import Tensor

from tests.ops import cases, targets


@dataclass
class TritonLayer(cases.Layer):
    one_bit_digits: bool = False

    def runtime(self, active_bits: int | None) -> dict[str, Tensor]:
        blocks = lay_out_bits(self.packed.weight, self.k, self.one_bit_digits)
        return self.packed.tensors() | {"weight": blocks}

    def native(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        values = self.arguments(precision, **quantised)
        if isinstance(self.packed, Signs):
            return signs_linear(SignsArguments(x, *values))
        return planes_linear(PlanesArguments(x, *values))

    def staged(self) -> BitsLayer:
        """What the launchers make of the arguments."""
        packed = self.packed
        assert isinstance(packed, Signs | Planes)
        bits = 1 if isinstance(packed, Signs) else packed.bits
        widths = tuple(digit_widths(bits, bits if self.one_bit_digits else 0))
        get = self.runtime(None).get
        tensors = [get(name) for name in ("weight", "scales", "offsets", "router", "in_scales", "out_scales")]
        return BitsLayer(*tensors, self.bias, widths, widths, (self.n,), self.k, packed.group_size)


def make(
    kind: str, n: int, k: int, seed: int = 0, *, one_bit_digits: bool = False, **options: Any
) -> TritonLayer:
    layer = cases.make(kind, n, k, seed, **options)
    return TritonLayer(layer.packed, layer.bias, one_bit_digits, target=targets.TRITON)


def without_offsets(packed: Planes) -> Planes:
    return replace(packed, offsets=None)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
