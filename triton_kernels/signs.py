"""Family signs: the product with 1-bit weights, scales mixed per token, by segments that share x."""

from __future__ import annotations

from lowbit.backends.arguments import SignsArguments
from torch import Tensor

from .bits.layer import BitsLayer
from .bits.linear import bits_linear


def signs_linear(a: SignsArguments) -> Tensor:
    """y [M, N] of x [M, K], the weight from `lay_out_bits`."""
    layer = BitsLayer(
        a.weight,
        a.scales,
        None,
        a.router,
        a.in_scales,
        a.out_scales,
        a.bias,
        stored_widths=(1,),
        widths=(1,),
        segments=tuple(a.segments) or (a.out_features,),
        in_features=a.in_features,
        group_size=a.group_size,
    )
    return bits_linear(a.x, layer, a.precision, 0)
