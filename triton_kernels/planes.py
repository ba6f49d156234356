"""Family planes: the product with weights of 1 to 8 bits, of which the first may be read alone."""

from __future__ import annotations

from itertools import accumulate

from lowbit.backends.cuda import digit_widths
from lowbit.errors import ValueRangeError
from torch import Tensor

from .bits.layer import BitsLayer
from .bits.linear import bits_linear


def planes_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    offsets: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    group_size: int,
    active_bits: int,
    activation_bits: int,
    precision: int,
) -> Tensor:
    """y [M, N] of x [M, K]: arguments of torch.ops.lowbit.planes_linear, the weight from `lay_out_bits`.

    Raises:
        ValueRangeError: the digits of the weight do not end after active_bits.
    """
    stored = tuple(digit_widths(weight.shape[0], weight.shape[1]))
    ends = list(accumulate(stored))
    if active_bits not in ends:
        raise ValueRangeError(
            "active_bits that the layout of the weight cannot read", found=active_bits, allowed=ends
        )
    layer = BitsLayer(
        weight,
        scales,
        offsets,
        None,
        None,
        None,
        bias,
        stored_widths=stored,
        widths=stored[: ends.index(active_bits) + 1],
        segments=(out_features,),
        in_features=in_features,
        group_size=group_size,
    )
    return bits_linear(x, layer, precision, activation_bits)
