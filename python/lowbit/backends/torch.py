"""Plain torch: the formats' own specification, for every device and dtype, slow and always there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit.backends.arguments import (
    ARGUMENTS,
    ChannelArguments,
    PlanesArguments,
    ScalarArguments,
    SignsArguments,
    VectorArguments,
)
from lowbit.backends.base import Availability, KernelChoice, Tensors, packed_format
from lowbit.formats import PRECISIONS, CodebookChannel, CodebookScalar, CodebookVector, Planes, Signs
from lowbit.formats.base import Metadata


def signs_linear(a: SignsArguments) -> Tensor:
    if a.segments:
        outputs = []
        begin = 0
        for index, rows in enumerate(a.segments):
            part = slice(begin, begin + rows)
            layer = Signs(
                weight=a.weight[part],
                in_features=a.in_features,
                scales=None if a.scales is None else a.scales[part],
                group_size=a.group_size,
                router=_of_segment(a.router, index),
                in_scales=_of_segment(a.in_scales, index),
                out_scales=None if a.out_scales is None else a.out_scales[:, part],
            )
            segment_bias = None if a.bias is None else a.bias[part]
            outputs.append(layer.linear(a.x, segment_bias, precision=PRECISIONS[a.precision]))
            begin += rows
        return torch.cat(outputs, dim=-1)
    layer = Signs(a.weight, a.in_features, a.scales, a.group_size, a.router, a.in_scales, a.out_scales)
    return layer.linear(a.x, a.bias, precision=PRECISIONS[a.precision])


def _of_segment(stacked: Tensor | None, index: int) -> Tensor | None:
    """Part [E, K] of [segments, E, K], or of [E, K] where there is one segment."""
    return None if stacked is None else stacked.reshape(-1, *stacked.shape[-2:])[index]


def planes_linear(a: PlanesArguments) -> Tensor:
    layer = Planes(a.weight, a.scales, a.in_features, a.group_size, a.offsets)
    return layer.linear(
        a.x,
        a.bias,
        precision=PRECISIONS[a.precision],
        activation_bits=a.activation_bits,
        active_bits=a.active_bits,
    )


def codebook_channel_linear(a: ChannelArguments) -> Tensor:
    layer = CodebookChannel(
        a.weight, a.labels, a.axis, a.in_features, a.out_features, a.low_rank_out, a.low_rank_in
    )
    return layer.linear(a.x, a.bias, precision=PRECISIONS[a.precision])


def codebook_scalar_linear(a: ScalarArguments) -> Tensor:
    layer = CodebookScalar(
        a.weight, a.tables, a.in_features, a.outlier_offsets, a.outlier_columns, a.outlier_values
    )
    return layer.linear(a.x, a.bias, precision=PRECISIONS[a.precision])


def codebook_vector_linear(a: VectorArguments) -> Tensor:
    layer = CodebookVector(a.weight, a.codebooks, a.out_scales, a.in_features)
    return layer.linear(a.x, a.bias, precision=PRECISIONS[a.precision])


_PRODUCTS: dict[str, Callable[[Any], Tensor]] = {
    "signs": signs_linear,
    "planes": planes_linear,
    "codebook_channel": codebook_channel_linear,
    "codebook_scalar": codebook_scalar_linear,
    "codebook_vector": codebook_vector_linear,
}


def _taking(record: Callable[..., Any], product: Callable[[Any], Tensor]) -> Callable[..., Tensor]:
    return lambda *values, **named: product(record(*values, **named))


_OPERATORS = {kind: _taking(ARGUMENTS[kind], product) for kind, product in _PRODUCTS.items()}


class TorchBackend:
    """Computes through the format classes; the tensors stay canonical."""

    name = "torch"
    packs_digits = False

    def available(self) -> Availability:
        return Availability(True, f"torch {torch.__version__}")

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, *, forced: bool = False
    ) -> Availability:
        return Availability(True, "plain torch runs every layer")

    def prepare(self, tensors: Tensors, metadata: Metadata, any_bits: bool = False) -> Tensors:
        return dict(tensors)

    def restore(self, tensors: Tensors, metadata: Metadata) -> Tensors:
        return dict(tensors)

    def rows(self, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        return packed_format(tensors, metadata)._expand(ids)

    def operator(self, kind: str) -> Callable[..., Tensor]:
        return _OPERATORS[kind]

    def choose(self, kind: str, x: Tensor, arguments: Sequence[Any]) -> KernelChoice:
        return KernelChoice(f"{kind}_linear")
