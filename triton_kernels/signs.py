"""Family signs: the product with 1-bit weights, scales mixed per token, by segments that share x."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .bits.layer import BitsLayer
from .bits.linear import bits_linear


def signs_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    router: Tensor | None,
    in_scales: Tensor | None,
    out_scales: Tensor | None,
    bias: Tensor | None,
    segments: Sequence[int],
    in_features: int,
    out_features: int,
    group_size: int,
    precision: int,
) -> Tensor:
    """y [M, N] of x [M, K]: arguments of torch.ops.lowbit.signs_linear, the weight from `lay_out_bits`."""
    layer = BitsLayer(
        weight,
        scales,
        None,
        router,
        in_scales,
        out_scales,
        bias,
        stored_widths=(1,),
        widths=(1,),
        segments=tuple(segments) or (out_features,),
        in_features=in_features,
        group_size=group_size,
    )
    return bits_linear(x, layer, precision, 0)
