"""Schemes and the metadata of packed layers: one implied by the other, and one held against the other."""

from __future__ import annotations

import dataclasses

from lowbit.errors import FormatError
from lowbit.formats.base import Metadata
from lowbit.schemes import (
    BinaryMoS,
    BipolarInt,
    ChannelCodebook,
    GroupedSigns,
    OneBit,
    ScalarCodebook,
    Scheme,
    VectorCodebook,
)

# How a layer is computed, or was made; its tensors do not tell.
_NOT_IN_METADATA = ("activation_bits", "outlier_fraction")
# A small layer has fewer than its scheme asks for.
_UPPER_BOUNDS = ("clusters", "rank")


def implied_scheme(metadata: Metadata) -> Scheme:
    """The scheme of a weight that came packed, as far as its checked metadata tells."""
    dtype = str(metadata["scale_dtype"])

    def number(name: str) -> int:
        return int(metadata[name])

    match metadata["kind"]:
        case "planes":
            return BipolarInt(
                number("bits"),
                group_size=number("group_size"),
                asymmetric=bool(number("asymmetric")),
                scale_dtype=dtype,
            )
        case "codebook_channel":
            return ChannelCodebook(number("clusters"), number("rank"), number("axis"), scale_dtype=dtype)
        case "codebook_scalar":
            return ScalarCodebook(number("bits"), scale_dtype=dtype)
        case "codebook_vector":
            return VectorCodebook(number("codebooks"), number("vector_size"), scale_dtype=dtype)
    if number("experts") == 0:
        return GroupedSigns(number("group_size"), scale_dtype=dtype)
    if number("experts") == 1:
        return OneBit(scale_dtype=dtype)
    return BinaryMoS(number("experts"), scale_dtype=dtype)


def check_scheme(scheme: Scheme, metadata: Metadata, layer: str) -> None:
    """Raise FormatError unless a layer of this metadata can come from this scheme."""
    stored = implied_scheme(metadata)
    if type(stored) is not type(scheme):
        raise FormatError(
            "another format than its metadata", layer=layer, found=scheme.name, allowed=stored.name
        )
    for field in dataclasses.fields(scheme):
        said, found = getattr(scheme, field.name), getattr(stored, field.name)
        bound = field.name in _UPPER_BOUNDS
        if field.name not in _NOT_IN_METADATA and not (said >= found if bound else said == found):
            raise FormatError(
                f"'{field.name}' of its {scheme.name} contradicts its metadata",
                layer=layer,
                found=repr(said),
                allowed=f"{found!r} or more" if bound else repr(found),
            )
