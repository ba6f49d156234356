"""Plain torch: the formats' own specification, for every device and dtype, slow and always there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit.backends.base import Availability, KernelChoice, Tensors, packed_format
from lowbit.formats import PRECISIONS, CodebookChannel, CodebookScalar, CodebookVector, Planes, Signs
from lowbit.formats.base import Metadata


def signs_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    router: Tensor | None,
    in_scales: Tensor | None,
    out_scales: Tensor | None,
    bias: Tensor | None,
    segments: list[int],
    in_features: int,
    out_features: int,
    group_size: int,
    precision: int,
) -> Tensor:
    """Segments are layers with the same input, one below the other in `weight`, `scales` and `out_scales`."""
    if segments:
        outputs = []
        begin = 0
        for index, rows in enumerate(segments):
            part = slice(begin, begin + rows)
            layer = Signs(
                weight=weight[part],
                in_features=in_features,
                scales=None if scales is None else scales[part],
                group_size=group_size,
                router=_of_segment(router, index),
                in_scales=_of_segment(in_scales, index),
                out_scales=None if out_scales is None else out_scales[:, part],
            )
            segment_bias = None if bias is None else bias[part]
            outputs.append(layer.linear(x, segment_bias, precision=PRECISIONS[precision]))
            begin += rows
        return torch.cat(outputs, dim=-1)
    layer = Signs(weight, in_features, scales, group_size, router, in_scales, out_scales)
    return layer.linear(x, bias, precision=PRECISIONS[precision])


def _of_segment(stacked: Tensor | None, index: int) -> Tensor | None:
    """Part [E, K] of [segments, E, K], or of [E, K] where there is one segment."""
    return None if stacked is None else stacked.reshape(-1, *stacked.shape[-2:])[index]


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
    layer = Planes(weight, scales, in_features, group_size, offsets)
    return layer.linear(
        x,
        bias,
        precision=PRECISIONS[precision],
        activation_bits=activation_bits,
        active_bits=active_bits,
    )


def codebook_channel_linear(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    low_rank_out: Tensor | None,
    low_rank_in: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    axis: int,
    precision: int,
) -> Tensor:
    layer = CodebookChannel(weight, labels, axis, in_features, out_features, low_rank_out, low_rank_in)
    return layer.linear(x, bias, precision=PRECISIONS[precision])


def codebook_scalar_linear(
    x: Tensor,
    weight: Tensor,
    tables: Tensor,
    outlier_offsets: Tensor | None,
    outlier_columns: Tensor | None,
    outlier_values: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    precision: int,
) -> Tensor:
    layer = CodebookScalar(weight, tables, in_features, outlier_offsets, outlier_columns, outlier_values)
    return layer.linear(x, bias, precision=PRECISIONS[precision])


def codebook_vector_linear(
    x: Tensor,
    weight: Tensor,
    codebooks: Tensor,
    out_scales: Tensor,
    bias: Tensor | None,
    in_features: int,
    precision: int,
) -> Tensor:
    layer = CodebookVector(weight, codebooks, out_scales, in_features)
    return layer.linear(x, bias, precision=PRECISIONS[precision])


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "signs": signs_linear,
    "planes": planes_linear,
    "codebook_channel": codebook_channel_linear,
    "codebook_scalar": codebook_scalar_linear,
    "codebook_vector": codebook_vector_linear,
}


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


# Of `<kind>_linear`, the same for all backends: x, then tensors by their names in checkpoints, then numbers.
ARGUMENTS = {kind: tuple(inspect.signature(function).parameters) for kind, function in _OPERATORS.items()}
