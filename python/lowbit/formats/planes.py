"""Family planes: weights of 1 to 8 bits as bit planes of odd, zero-free ("bipolar") codes.

A code of B bits b_(B-1) .. b_0 stands for the odd value v = sum_i (2 b_i - 1) 2^i = 2 u - (2^B - 1), where u
is the code as an unsigned number: -(2^B - 1), ..., -1, +1, ..., 2^B - 1. Every plane is a matrix of signs.

    weight   uint8 [B, N, ceil(K/8)]     plane 0 = bit B-1 (most significant), ..., plane B-1 = bit 0
    scales   [N, ceil(K/g)]              row n:  | g inputs | g inputs | short |
    offsets  int16 [N, ceil(K/g)]        optional, in code units

        w = scales * (v + offsets)

The first b planes are a weight of b bits by themselves, read from the same bytes:

    plane   0    1    2    3             v_b = 2 u_b - (2^b - 1),  u_b = the first b bits
            |- b = 2 -|                  w   = scales * (2^(B-b) v_b + offsets)
            |------ B = 4 -----|

The offset term is not scaled. Bipolar codes: arXiv 2409.17870; nested planes: Any-Precision LLM,
arXiv 2402.10517.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats.activations import check_activation_bits
from lowbit.formats.base import (
    SCALE_DTYPES,
    Metadata,
    MetadataReader,
    PackedWeight,
    TensorSpec,
    check_group_size,
    dtype_name,
    group_count,
    spread_groups,
)
from lowbit.formats.bits import MAX_BITS, check_padding, pack_codes, packed_width, unpack_codes


@dataclass(frozen=True, eq=False, repr=False)
class Planes(PackedWeight):
    """1..8-bit weight; see the module docstring for shapes."""

    weight: Tensor
    scales: Tensor
    in_features: int
    group_size: int
    offsets: Tensor | None = None

    family: ClassVar[str] = "planes"
    kind: ClassVar[str] = "planes"
    quantized_precisions: ClassVar[tuple[str, ...]] = ("fast", "high")
    tensor_names: ClassVar[tuple[str, ...]] = ("weight", "scales", "offsets")
    metadata_fields: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "bits",
        "group_size",
        "asymmetric",
        "scale_dtype",
    )
    weight_dims: ClassVar[int] = 3

    @property
    def out_features(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    @property
    def bits(self) -> int:
        """Stored planes B."""
        return self.weight.shape[0]

    def metadata(self) -> dict[str, int | str]:
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.bits,
            "group_size": self.group_size,
            "asymmetric": int(self.offsets is not None),
            "scale_dtype": dtype_name(self.scales.dtype),
        }

    @classmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        read = MetadataReader(metadata, cls.metadata_fields, cls.kind, layer)
        n, k = read.integer("out_features", 1), read.integer("in_features", 1)
        groups = group_count(k, read.group_size())
        specs = {
            "weight": TensorSpec((read.integer("bits", 1, MAX_BITS), n, packed_width(k)), torch.uint8),
            "scales": TensorSpec((n, groups), read.scale_dtype()),
        }
        if read.integer("asymmetric", 0, 1):
            specs["offsets"] = TensorSpec((n, groups), torch.int16)
        return specs

    @classmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        return {name: int(metadata[name]) for name in ("in_features", "group_size")}

    def _validate_values(self, layer: str | None) -> None:
        check_padding(self.weight, self.in_features, layer=layer)
        self._check_finite(("scales",), layer)

    def dequantize(self, active_bits: int | None = None) -> Tensor:
        """float32 [N, K], from the first `active_bits` planes (default all)."""
        planes = self._planes(active_bits)
        return torch.cat([self._expand_planes(ids, planes) for ids in self._chunks()])

    def rows(self, ids: Tensor, active_bits: int | None = None) -> Tensor:
        """float32 [len(ids), K]: some rows of :meth:`dequantize`."""
        self._check_ids(ids)
        return self._expand_planes(ids.long(), self._planes(active_bits))

    def _expand(self, ids: Tensor) -> Tensor:
        return self._expand_planes(ids, self.bits)

    def _expand_planes(self, ids: Tensor, planes: int) -> Tensor:
        codes = unpack_codes(self.weight[:planes, ids], self.in_features).to(torch.int16)
        values = ((2 * codes - (2**planes - 1)) * 2 ** (self.bits - planes)).float()
        if self.offsets is not None:
            values += spread_groups(self.offsets[ids].float(), self.in_features, self.group_size)
        return values.mul_(spread_groups(self.scales[ids].float(), self.in_features, self.group_size))

    def _planes(self, active_bits: int | None) -> int:
        if active_bits is None:
            return self.bits
        if not 1 <= active_bits <= self.bits:
            raise ValueRangeError("unsupported active_bits", found=active_bits, allowed=f"1..{self.bits}")
        return active_bits

    def linear(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        precision: str = "exact",
        activation_bits: int = 0,
        active_bits: int | None = None,
    ) -> Tensor:
        """See :meth:`PackedWeight.linear`; with `activation_bits` the precision plays no part."""
        self._check_call(x, activation_bits, active_bits)
        values = self._activations(x, precision, activation_bits)
        planes = self._planes(active_bits)
        pieces = [
            torch.nn.functional.linear(values, self._expand_planes(ids, planes).to(values.dtype))
            for ids in self._chunks()
        ]
        return self._finish(torch.cat(pieces, dim=-1), bias, x.dtype)

    def _check_bits(self, activation_bits: int, active_bits: int | None) -> None:
        if activation_bits:
            check_activation_bits(activation_bits)
        self._planes(active_bits)


def planes_from_integers(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bits: int,
    group_size: int,
    layer: str | None = None,
) -> Planes:
    """Import a group-quantised integer weight w = s (q - z) without loss.

    The unsigned code q is kept: as v = 2 q - (2^bits - 1), s (q - z) = (s / 2) (v + 2^bits - 1 - 2 z), so the
    scale becomes s / 2 and the offset 2^bits - 1 - 2 z.

    Args:
        codes: integer [N, K], q in 0 .. 2^bits - 1.
        scales: float16, bfloat16 or float32 [N, ceil(K/group_size)]; kept in this dtype.
        zeros: integer [N, ceil(K/group_size)].
        bits: 1..8.
        group_size: -1 (whole row) or a positive multiple of 32.

    Raises:
        ValueRangeError: a code, a zero point or a halved scale does not fit.
        ShapeError, DtypeError: as named.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueRangeError("unsupported bits", layer=layer, found=bits, allowed=f"1..{MAX_BITS}")
    check_group_size(group_size, layer=layer)
    if codes.dim() != 2:
        raise ShapeError("wrong shape of 'codes'", layer=layer, found=list(codes.shape), allowed="[N, K]")
    out_features, in_features = codes.shape
    grouped = [out_features, group_count(in_features, group_size)]
    for name, tensor in (("scales", scales), ("zeros", zeros)):
        if list(tensor.shape) != grouped:
            raise ShapeError(
                f"wrong shape of '{name}'", layer=layer, found=list(tensor.shape), allowed=grouped
            )
    for name, tensor in (("codes", codes), ("zeros", zeros)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise DtypeError(
                f"wrong dtype of '{name}'", layer=layer, found=tensor.dtype, allowed="an integer dtype"
            )
    if scales.dtype not in SCALE_DTYPES.values():
        raise DtypeError(
            "wrong dtype of 'scales'",
            layer=layer,
            found=dtype_name(scales.dtype),
            allowed=", ".join(SCALE_DTYPES),
        )
    largest = 2**bits - 1
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) > largest):
        raise ValueRangeError(
            "codes out of range",
            layer=layer,
            found=f"{int(codes.min())}..{int(codes.max())}",
            allowed=f"0..{largest}",
        )
    offsets = largest - 2 * zeros.long()
    limits = torch.iinfo(torch.int16)
    if bool(((offsets < limits.min) | (offsets > limits.max)).any()):
        raise ValueRangeError(
            "zero points out of range",
            layer=layer,
            found=f"{int(zeros.min())}..{int(zeros.max())}",
            allowed=f"2^bits - 1 - 2 zero within {limits.min}..{limits.max}",
        )
    halved = scales / 2
    if bool((halved * 2 != scales).any()):
        raise ValueRangeError(
            "scales that cannot be halved without loss",
            layer=layer,
            found=f"the smallest {float(scales.abs().min()):g} in {dtype_name(scales.dtype)}",
            allowed="finite values whose half is representable; convert the scales to float32",
        )
    packed = Planes(
        pack_codes(codes.to(torch.uint8), bits), halved, in_features, group_size, offsets.to(torch.int16)
    )
    packed.validate(layer)
    return packed
