"""Schemes and the metadata of packed layers: one implied by the other, and one held against the other."""

from __future__ import annotations

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

# Not every scheme there is: those that others add may make weights of any kind.
_OWN = (BinaryMoS, OneBit, GroupedSigns, BipolarInt, ChannelCodebook, ScalarCodebook, VectorCodebook)

# Fields that say how wide a layer's codes are. The others do not have to agree: the metadata decides, and
# small layers have fewer clusters than asked for.
_WIDTHS = ("weight_bits", "bits", "experts", "codebooks", "vector_size")


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
        case "signs" if number("experts") == 0:
            return GroupedSigns(number("group_size"), scale_dtype=dtype)
        case "signs" if number("experts") == 1:
            return OneBit(scale_dtype=dtype)
        case "signs":
            return BinaryMoS(number("experts"), scale_dtype=dtype)
        case kind:
            raise FormatError("no scheme is known for this kind of weight; give the layer one", found=kind)


def check_scheme(scheme: Scheme, metadata: Metadata, layer: str) -> None:
    """Raise FormatError where a layer of this metadata cannot come from this scheme."""
    if type(scheme) not in _OWN:
        return
    stored = implied_scheme(metadata)
    if type(stored) is not type(scheme):
        raise FormatError(
            "another format than its metadata", layer=layer, found=scheme.name, allowed=stored.name
        )
    for name in _WIDTHS:
        said, found = getattr(scheme, name, None), getattr(stored, name, None)
        if said != found:
            raise FormatError(
                f"'{name}' of its {scheme.name} contradicts its metadata",
                layer=layer,
                found=repr(said),
                allowed=repr(found),
            )
