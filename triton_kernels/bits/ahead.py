"""Launches without data, to be compiled ahead of time: layers of 8192 rows."""

from __future__ import annotations

import torch
from lowbit.backends.cuda import digit_widths
from lowbit.formats.base import group_count

from ..compiled import Launch
from ..gpu import INTERPRETED_MULTIPROCESSORS, Gpu
from .call import Call
from .gemm import gemm
from .layer import BitsLayer
from .linear import calls, product_of
from .product import product
from .staging import Kind

FEATURES = 8192
EXPERTS = 4
_GPU = Gpu(INTERPRETED_MULTIPROCESSORS)


def layer_of(
    bits: int,
    group_size: int,
    *,
    in_features: int = FEATURES,
    experts: int = 0,
    offsets: bool = False,
    one_bit: bool = False,
) -> BitsLayer:
    """A layer on the device `meta`."""

    def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    groups = (FEATURES, group_count(in_features, group_size))
    widths = tuple(digit_widths(bits, bits if one_bit else 0))
    return BitsLayer(
        weight=empty(bits, len(widths), 1, 128, dtype=torch.uint8),
        scales=None if experts else empty(*groups),
        offsets=empty(*groups, dtype=torch.int16) if offsets else None,
        router=empty(experts, in_features) if experts else None,
        in_scales=empty(experts, in_features) if experts else None,
        out_scales=empty(experts, FEATURES) if experts else None,
        bias=None,
        stored_widths=widths,
        widths=widths,
        segments=(FEATURES,),
        in_features=in_features,
        group_size=group_size,
    )


def calls_of(layer: BitsLayer, kind: Kind, tokens: int, gpu: Gpu = _GPU) -> list[Call]:
    """The kernels of its product, float16."""
    x, y = (
        torch.empty(tokens, features, dtype=torch.float16, device="meta")
        for features in (layer.in_features, layer.out_features)
    )
    return calls(x, layer, kind, y, gpu)


def product_launch(name: str, layer: BitsLayer, kind: Kind, tokens: int, gpu: Gpu = _GPU) -> Launch:
    """The kernel that multiplies."""
    call = calls_of(layer, kind, tokens, gpu)[1]
    inputs = call.constexprs["UNIT"]
    if call.kernel is gemm:
        inputs *= call.constexprs["BLOCK_COLUMNS"] // call.constexprs["PER_TOKEN"]
    if call.kernel is product:
        inputs = product_of(layer, kind).turn_inputs(layer.widths[0])
    return call.ahead_of_time(name, call.constexprs["BLOCK_ROWS"] * inputs)
