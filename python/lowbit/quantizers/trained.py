"""Packing what was trained through lowbit.ops.straight_through: same rule and scales, so the same weights."""

from __future__ import annotations

from torch import Tensor

from lowbit.errors import ShapeError, ValueRangeError
from lowbit.formats.base import check_group_size, group_count, spread_groups
from lowbit.formats.bits import MAX_BITS, pack_bits, pack_codes
from lowbit.formats.codebook import CodebookScalar
from lowbit.formats.planes import Planes
from lowbit.formats.rounding import bipolar_values, bits_of_tables, is_plus, nearest_entries, wide
from lowbit.formats.signs import Signs
from lowbit.quantizers.common import check_weight, to_stored


def pack_signs(
    weight: Tensor,
    *,
    scales: Tensor | None = None,
    group_size: int = -1,
    router: Tensor | None = None,
    in_scales: Tensor | None = None,
    out_scales: Tensor | None = None,
    scale_dtype: str = "float16",
    layer: str | None = None,
) -> Signs:
    """Signs of latent weights [N, K] with learned scales: BinaryMoS, OneBit or scales per group.

    Args:
        scales: [N, ceil(K / group_size)], or in_scales [E, K] and out_scales [E, N], with router [E, K] for
            E >= 2.
        scale_dtype: dtype to store them in, as in training.
        layer: name for error messages.

    Raises:
        FormatError: shapes do not belong together, or a value is not finite (ShapeError, ValueRangeError).
    """
    weight = check_weight(weight, layer)
    floats = {"scales": scales, "router": router, "in_scales": in_scales, "out_scales": out_scales}
    kept = {
        name: to_stored(own.detach(), scale_dtype, layer) for name, own in floats.items() if own is not None
    }
    packed = Signs(pack_bits(is_plus(weight)), weight.shape[1], group_size=group_size, **kept)
    packed.validate(layer)
    return packed


def pack_planes(
    weight: Tensor,
    scales: Tensor,
    bits: int,
    *,
    group_size: int = -1,
    scale_dtype: str = "float16",
    layer: str | None = None,
) -> Planes:
    """Bit planes of latent weights [N, K] with learned scales [N, ceil(K / group_size)].

    `dequantize()` equals `straight_through.bipolar` of the same arguments.

    Raises:
        FormatError: as of :func:`pack_signs`.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueRangeError("unsupported bits", layer=layer, found=bits, allowed=f"1..{MAX_BITS}")
    check_group_size(group_size, layer=layer)
    weight = wide(check_weight(weight, layer))
    out_features, in_features = weight.shape
    grouped = [out_features, group_count(in_features, group_size)]
    if list(scales.shape) != grouped:
        raise ShapeError("wrong shape of 'scales'", layer=layer, found=list(scales.shape), allowed=grouped)
    kept = to_stored(scales.detach(), scale_dtype, layer)
    values = bipolar_values(weight, spread_groups(kept.to(weight.dtype), in_features, group_size), bits)
    packed = Planes(pack_codes((values.int() + 2**bits - 1) >> 1, bits), kept, in_features, group_size)
    packed.validate(layer)
    return packed


def pack_scalars(
    weight: Tensor, tables: Tensor, *, scale_dtype: str = "float16", layer: str | None = None
) -> CodebookScalar:
    """Codes of latent weights [N, K] in learned tables [N, 2^bits], which are stored in ascending order.

    `dequantize()` equals `straight_through.scalar_codebook` of the same arguments.

    Raises:
        FormatError: as of :func:`pack_signs`.
    """
    weight = wide(check_weight(weight, layer))
    bits = bits_of_tables(tables, weight.shape[0], layer)
    kept = to_stored(tables.detach(), scale_dtype, layer).sort(dim=1).values
    codes = nearest_entries(weight, kept.to(weight.dtype))
    packed = CodebookScalar(pack_codes(codes, bits), kept, weight.shape[1])
    packed.validate(layer)
    return packed
