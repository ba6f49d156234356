"""What `<kind>_linear` takes, the same for all backends: x, tensors by their names in checkpoints, numbers.

N = out_features, K = in_features. `weight` is as the backend lays it out; the other shapes are those of
lowbit.formats, but labels and scales may have another layout too. precision is a position in
lowbit.formats.PRECISIONS. Torch reads the operators' schemas off these annotations, as objects.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class SignsArguments(NamedTuple):
    """Segments are layers with the same input, one below the other in `weight`, `scales` and `out_scales`.

    Attributes:
        router, in_scales: [segments, E, K], or [E, K] of one segment.
        segments: rows of each; none: the layer is one.
    """

    x: Tensor
    weight: Tensor
    scales: Tensor | None
    router: Tensor | None
    in_scales: Tensor | None
    out_scales: Tensor | None
    bias: Tensor | None
    segments: Sequence[int]
    in_features: int
    out_features: int
    group_size: int
    precision: int


class PlanesArguments(NamedTuple):
    """
    Attributes:
        active_bits: planes that are multiplied, the first of the weight's.
        activation_bits: 0: as precision says.
    """

    x: Tensor
    weight: Tensor
    scales: Tensor
    offsets: Tensor | None
    bias: Tensor | None
    in_features: int
    out_features: int
    group_size: int
    active_bits: int
    activation_bits: int
    precision: int


class ChannelArguments(NamedTuple):
    """
    Attributes:
        axis: 0: labels are of output channels; 1: of input channels.
    """

    x: Tensor
    weight: Tensor
    labels: Tensor
    low_rank_out: Tensor | None
    low_rank_in: Tensor | None
    bias: Tensor | None
    in_features: int
    out_features: int
    axis: int
    precision: int


class ScalarArguments(NamedTuple):
    x: Tensor
    weight: Tensor
    tables: Tensor
    outlier_offsets: Tensor | None
    outlier_columns: Tensor | None
    outlier_values: Tensor | None
    bias: Tensor | None
    in_features: int
    precision: int


class VectorArguments(NamedTuple):
    x: Tensor
    weight: Tensor
    codebooks: Tensor
    out_scales: Tensor
    bias: Tensor | None
    in_features: int
    precision: int


Arguments = SignsArguments | PlanesArguments | ChannelArguments | ScalarArguments | VectorArguments

ARGUMENTS: dict[str, type[Arguments]] = {
    "signs": SignsArguments,
    "planes": PlanesArguments,
    "codebook_channel": ChannelArguments,
    "codebook_scalar": ScalarArguments,
    "codebook_vector": VectorArguments,
}
