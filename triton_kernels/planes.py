"""Family planes: the product with weights of 1 to 8 bits, of which the first may be read alone."""

from __future__ import annotations

from itertools import accumulate

from lowbit.backends.arguments import PlanesArguments
from lowbit.backends.cuda import digit_widths
from lowbit.errors import ValueRangeError
from torch import Tensor

from .bits.layer import BitsLayer
from .bits.linear import bits_linear


def planes_linear(a: PlanesArguments) -> Tensor:
    """y [M, N] of x [M, K], the weight from `lay_out_bits`.

    Raises:
        ValueRangeError: the digits of the weight do not end after active_bits.
    """
    stored = tuple(digit_widths(a.weight.shape[0], a.weight.shape[1]))
    ends = list(accumulate(stored))
    if a.active_bits not in ends:
        raise ValueRangeError(
            "active_bits that the layout of the weight cannot read", found=a.active_bits, allowed=ends
        )
    layer = BitsLayer(
        a.weight,
        a.scales,
        a.offsets,
        None,
        None,
        None,
        a.bias,
        stored_widths=stored,
        widths=stored[: ends.index(a.active_bits) + 1],
        segments=(a.out_features,),
        in_features=a.in_features,
        group_size=a.group_size,
    )
    return bits_linear(a.x, layer, a.precision, a.activation_bits)
