"""What the bytes mean: the packed formats, specified in plain torch.

Kernels on every backend are compared with these classes; nothing here depends on a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lowbit.errors import FormatError
from lowbit.formats.activations import (
    PRECISIONS,
    QuantizedActivations,
    prepare_activations,
    quantize_activations,
    quantize_bipolar,
)
from lowbit.formats.base import SCALE_DTYPES, Metadata, PackedWeight, TensorSpec
from lowbit.formats.bits import check_padding, pack_bits, pack_codes, packed_width, unpack_bits, unpack_codes
from lowbit.formats.codebook import CodebookChannel, CodebookScalar, CodebookVector
from lowbit.formats.config import FORMAT_VERSION, QuantizationConfig
from lowbit.formats.planes import Planes, planes_from_integers
from lowbit.formats.signs import Signs

FORMATS: dict[str, type[PackedWeight]] = {
    cls.kind: cls for cls in (Signs, Planes, CodebookChannel, CodebookScalar, CodebookVector)
}


def format_of(metadata: Metadata, layer: str | None = None) -> type[PackedWeight]:
    """The format class that the metadata's field 'kind' names.

    Raises:
        FormatError: no such kind.
    """
    kind = metadata.get("kind")
    if kind not in FORMATS:
        raise FormatError(
            "unknown kind of packed weight", layer=layer, found=repr(kind), allowed=", ".join(FORMATS)
        )
    return FORMATS[str(kind)]


def packed_from_tensors(
    tensors: Mapping[str, Tensor], metadata: Metadata, layer: str | None = None
) -> PackedWeight:
    """The packed weight, of whatever kind, that was stored as these tensors and this metadata; checked.

    Raises:
        FormatError: metadata or tensors do not follow the format (ShapeError, DtypeError, ValueRangeError).
    """
    return format_of(metadata, layer).from_tensors(tensors, metadata, layer)


__all__ = [
    "FORMATS",
    "FORMAT_VERSION",
    "PRECISIONS",
    "SCALE_DTYPES",
    "CodebookChannel",
    "CodebookScalar",
    "CodebookVector",
    "PackedWeight",
    "Planes",
    "QuantizationConfig",
    "QuantizedActivations",
    "Signs",
    "TensorSpec",
    "check_padding",
    "format_of",
    "pack_bits",
    "pack_codes",
    "packed_from_tensors",
    "packed_width",
    "planes_from_integers",
    "prepare_activations",
    "quantize_activations",
    "quantize_bipolar",
    "unpack_bits",
    "unpack_codes",
]
