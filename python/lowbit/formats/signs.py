"""Family signs: 1-bit weights, with grouped, static or token-adaptive scales.

Bit 1 is +1, bit 0 is -1 (bit order: formats/bits.py). A weight of exactly 0 packs as +1.

    weight      uint8 [N, ceil(K/8)]                 row n:  byte 0      byte 1      ...
                                                             k 0..7      k 8..15
    scales      [N, ceil(K/g)]    optional           row n:  | g inputs | g inputs | short |
    in_scales   [E, K]            optional, together with out_scales
    out_scales  [E, N]
    router      [E, K]            exactly when E >= 2

    grouped (Q1_0)      w = scales * sign                                    scales alone
    OneBit              y = ((x * in_scales) sign^T) * out_scales            E = 1
    BinaryMoS           the same with both scales mixed per token            E >= 2:
                        gates = softmax(x router^T);  scale = gates @ scales [E, .]

Sources: OneBit, arXiv 2402.11295; BinaryMoS, arXiv 2406.12311 (router and mixing from the authors' code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.errors import ValueRangeError
from lowbit.formats.activations import prepare_activations
from lowbit.formats.base import (
    Metadata,
    MetadataReader,
    PackedWeight,
    TensorSpec,
    dtype_name,
    group_count,
    spread_groups,
)
from lowbit.formats.bits import check_padding, packed_width, unpack_bits


@dataclass(frozen=True, eq=False, repr=False)
class Signs(PackedWeight):
    """1-bit weight; see the module docstring for shapes. All scales and the router share one float dtype."""

    weight: Tensor
    in_features: int
    scales: Tensor | None = None
    group_size: int = -1
    router: Tensor | None = None
    in_scales: Tensor | None = None
    out_scales: Tensor | None = None

    family: ClassVar[str] = "signs"
    kind: ClassVar[str] = "signs"
    quantized_precisions: ClassVar[tuple[str, ...]] = ("fast", "high")
    tensor_names: ClassVar[tuple[str, ...]] = ("weight", "scales", "router", "in_scales", "out_scales")
    metadata_fields: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "group_size",
        "scale_groups",
        "experts",
        "scale_dtype",
    )
    weight_dims: ClassVar[int] = 2

    @property
    def out_features(self) -> int:  # type: ignore[override]
        return self.weight.shape[0]

    @property
    def experts(self) -> int:
        """0: no input and output scales; 1: static; more: mixed per token."""
        scales = self.out_scales if self.in_scales is None else self.in_scales
        return 0 if scales is None else scales.shape[0]

    def metadata(self) -> dict[str, int | str]:
        floats = [t for name, t in self.tensors().items() if name != "weight"]
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "group_size": self.group_size,
            # 0: no tensor `scales`.
            "scale_groups": 0 if self.scales is None else group_count(self.in_features, self.group_size),
            "experts": self.experts,
            "scale_dtype": dtype_name(floats[0].dtype) if floats else "float16",
        }

    @classmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        read = MetadataReader(metadata, cls.metadata_fields, cls.kind, layer)
        n, k = read.integer("out_features", 1), read.integer("in_features", 1)
        groups, experts = read.integer("scale_groups", 0), read.integer("experts", 0)
        dtype, row_groups = read.scale_dtype(), group_count(k, read.group_size())
        specs = {"weight": TensorSpec((n, packed_width(k)), torch.uint8)}
        if groups:
            if groups != row_groups:
                raise ValueRangeError(
                    "bad metadata field 'scale_groups'",
                    layer=layer,
                    found=groups,
                    allowed=f"0 or {row_groups}",
                )
            specs["scales"] = TensorSpec((n, groups), dtype)
        if experts:
            specs["in_scales"] = TensorSpec((experts, k), dtype)
            specs["out_scales"] = TensorSpec((experts, n), dtype)
        if experts > 1:
            specs["router"] = TensorSpec((experts, k), dtype)
        return specs

    @classmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        return {name: int(metadata[name]) for name in ("in_features", "group_size")}

    def _validate_values(self, layer: str | None) -> None:
        check_padding(self.weight, self.in_features, layer=layer)
        self._check_finite(("scales", "router", "in_scales", "out_scales"), layer)

    def gates(self, x: Tensor) -> Tensor:
        """softmax(x router^T) over the experts: [..., K] -> [..., E]; ones [..., 1] for static scales.

        Computed in x's dtype, which :meth:`linear` has made float32 or float64.
        """
        if self.router is None:
            return torch.ones(*x.shape[:-1], 1, dtype=x.dtype, device=x.device)
        return torch.softmax(x @ self.router.to(x.dtype).T, dim=-1)

    def _expand_signs(self, ids: Tensor) -> Tensor:
        signs = unpack_bits(self.weight[ids], self.in_features).float() * 2 - 1
        if self.scales is None:
            return signs
        return signs * spread_groups(self.scales[ids].float(), self.in_features, self.group_size)

    def _expand(self, ids: Tensor) -> Tensor:
        """With experts: at uniform gates 1/E, in the order (in_scale * sign) * out_scale."""
        signs = self._expand_signs(ids)
        if self.in_scales is None or self.out_scales is None:
            return signs
        gate = 1.0 / self.experts
        in_mix = (self.in_scales.float() * gate).sum(dim=0)
        out_mix = (self.out_scales[:, ids].float() * gate).sum(dim=0)
        return in_mix * signs * out_mix[:, None]

    def linear(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        precision: str = "exact",
        activation_bits: int = 0,
        active_bits: int | None = None,
    ) -> Tensor:
        """See :meth:`PackedWeight.linear`. With input scales it is x * in_mix that gets quantised, not x."""
        self._check_call(x, activation_bits, active_bits)
        values = prepare_activations(x, "exact")
        if self.in_scales is None or self.out_scales is None:
            return self._finish(self._sign_product(self._activations(values, precision)), bias, x.dtype)
        gates = self.gates(values)
        scaled = values * (gates @ self.in_scales.to(values.dtype))
        product = self._sign_product(self._activations(scaled, precision))
        return self._finish(product * (gates @ self.out_scales.to(values.dtype)), bias, x.dtype)

    def _sign_product(self, z: Tensor) -> Tensor:
        pieces = [
            torch.nn.functional.linear(z, self._expand_signs(ids).to(z.dtype)) for ids in self._chunks()
        ]
        return torch.cat(pieces, dim=-1)
