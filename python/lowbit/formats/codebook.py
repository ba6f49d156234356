"""Family codebook: weights looked up in tables. Three variants.

channel  similar channels share one representative; the rest is corrected at low rank (arXiv 2501.08631).

    axis 0 (output channels)   weight [C, K], labels [N]      w[n, :] = weight[labels[n], :]
    axis 1 (input channels)    weight [N, C], labels [K]      w[:, k] = weight[:, labels[k]]
    optional                   low_rank_out [N, r], low_rank_in [r, K]     w += low_rank_out @ low_rank_in
    labels                     uint8 up to 256 representatives, else uint16

scalar   one table per output row (SqueezeLLM, arXiv 2306.07629; Any-Precision LLM, arXiv 2402.10517).

    weight  uint8 [B, N, ceil(K/8)]   code planes, the most significant first (formats/bits.py)
    tables  [N, 2^B]                  w[n, k] = tables[n, code[n, k]]
    optional outliers in CSR form, ADDED to the table's value (a row's columns ascend):
        outlier_offsets int32 [N+1], outlier_columns int32 [nnz], outlier_values [nnz]

        row n owns entries  offsets[n] .. offsets[n+1]-1

vector   v = 1..64 neighbouring inputs share a code per codebook; codebooks add up (AQLM, arXiv 2401.06118).

    weight      uint8 [M, N, ceil(K/v)]     row n:  | v inputs | v inputs | ... | last: may reach past K |
    codebooks   [M, 256, v]
    out_scales  [N]           w[n, v j : v j + v] = out_scales[n] * sum_m codebooks[m, weight[m, n, j]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.errors import ValueRangeError
from lowbit.formats.base import (
    Metadata,
    MetadataReader,
    PackedWeight,
    TensorSpec,
    dtype_name,
)
from lowbit.formats.bits import MAX_BITS, check_padding, packed_width, unpack_codes

VECTOR_CENTROIDS = 256
MAX_VECTOR_SIZE = 64
MAX_CLUSTERS = 1 << 16


def label_dtype(clusters: int) -> torch.dtype:
    """The smallest unsigned dtype that numbers so many representatives."""
    return torch.uint8 if clusters <= 256 else torch.uint16


@dataclass(frozen=True, eq=False, repr=False)
class CodebookChannel(PackedWeight):
    """Shared channels with a low-rank correction; see the module docstring for shapes."""

    weight: Tensor
    labels: Tensor
    axis: int
    in_features: int
    out_features: int
    low_rank_out: Tensor | None = None
    low_rank_in: Tensor | None = None

    family: ClassVar[str] = "codebook"
    kind: ClassVar[str] = "codebook_channel"
    quantized_precisions: ClassVar[tuple[str, ...]] = ()
    tensor_names: ClassVar[tuple[str, ...]] = ("weight", "labels", "low_rank_out", "low_rank_in")
    metadata_fields: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "axis",
        "clusters",
        "rank",
        "scale_dtype",
    )
    weight_dims: ClassVar[int] = 2
    group_size: ClassVar[int] = -1  # type: ignore[misc]

    @property
    def clusters(self) -> int:
        """Representatives C."""
        return self.weight.shape[0 if self.axis == 0 else 1]

    @property
    def rank(self) -> int:
        """Rank r of the correction; 0 without one."""
        if self.low_rank_in is not None:
            return self.low_rank_in.shape[0]
        return 0 if self.low_rank_out is None else self.low_rank_out.shape[-1]

    def metadata(self) -> dict[str, int | str]:
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "axis": self.axis,
            "clusters": self.clusters,
            "rank": self.rank,
            "scale_dtype": dtype_name(self.weight.dtype),
        }

    @classmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        read = MetadataReader(metadata, cls.metadata_fields, cls.kind, layer)
        n, k = read.integer("out_features", 1), read.integer("in_features", 1)
        axis, clusters = read.integer("axis", 0, 1), read.integer("clusters", 1, MAX_CLUSTERS)
        rank, dtype = read.integer("rank", 0), read.scale_dtype()
        specs = {
            "weight": TensorSpec((clusters, k) if axis == 0 else (n, clusters), dtype),
            "labels": TensorSpec((n if axis == 0 else k,), label_dtype(clusters)),
        }
        if rank:
            specs["low_rank_out"] = TensorSpec((n, rank), dtype)
            specs["low_rank_in"] = TensorSpec((rank, k), dtype)
        return specs

    @classmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        return {name: int(metadata[name]) for name in ("axis", "in_features", "out_features")}

    def _validate_values(self, layer: str | None) -> None:
        largest = int(self.labels.long().max())
        if largest >= self.clusters:
            raise ValueRangeError(
                "'labels' out of range", layer=layer, found=largest, allowed=f"0..{self.clusters - 1}"
            )
        self._check_finite(("weight", "low_rank_out", "low_rank_in"), layer)

    def _expand(self, ids: Tensor) -> Tensor:
        labels = self.labels.long()
        rows = self.weight[labels[ids]] if self.axis == 0 else self.weight[ids][:, labels]
        rows = rows.float()
        if self.low_rank_out is None or self.low_rank_in is None:
            return rows
        return rows + self.low_rank_out[ids].float() @ self.low_rank_in.float()

    def _product(self, x: Tensor, active_bits: int | None) -> Tensor:
        """One product for all rows of a label (axis 0), one input for all columns of a label (axis 1)."""
        labels, weight = self.labels.long(), self.weight.to(x.dtype)
        if self.axis == 0:
            y = (x @ weight.T)[..., labels]
        else:
            sums = x.new_zeros(*x.shape[:-1], self.clusters).index_add(-1, labels, x)
            y = sums @ weight.T
        if self.low_rank_out is None or self.low_rank_in is None:
            return y
        return y + (x @ self.low_rank_in.to(x.dtype).T) @ self.low_rank_out.to(x.dtype).T


@dataclass(frozen=True, eq=False, repr=False)
class CodebookScalar(PackedWeight):
    """A table per output row, with optional additive outliers; see the module docstring for shapes."""

    weight: Tensor
    tables: Tensor
    in_features: int
    outlier_offsets: Tensor | None = None
    outlier_columns: Tensor | None = None
    outlier_values: Tensor | None = None

    family: ClassVar[str] = "codebook"
    kind: ClassVar[str] = "codebook_scalar"
    quantized_precisions: ClassVar[tuple[str, ...]] = ("fast",)
    tensor_names: ClassVar[tuple[str, ...]] = (
        "weight",
        "tables",
        "outlier_offsets",
        "outlier_columns",
        "outlier_values",
    )
    metadata_fields: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "bits",
        "outliers",
        "scale_dtype",
    )
    weight_dims: ClassVar[int] = 3
    group_size: ClassVar[int] = -1  # type: ignore[misc]

    @property
    def out_features(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    @property
    def bits(self) -> int:
        """Code bits B."""
        return self.weight.shape[0]

    def metadata(self) -> dict[str, int | str]:
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.bits,
            "outliers": 0 if self.outlier_values is None else self.outlier_values.numel(),
            "scale_dtype": dtype_name(self.tables.dtype),
        }

    @classmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        read = MetadataReader(metadata, cls.metadata_fields, cls.kind, layer)
        n, k = read.integer("out_features", 1), read.integer("in_features", 1)
        bits, dtype = read.integer("bits", 1, MAX_BITS), read.scale_dtype()
        outliers = read.integer("outliers", 0, n * k)
        specs = {
            "weight": TensorSpec((bits, n, packed_width(k)), torch.uint8),
            "tables": TensorSpec((n, 2**bits), dtype),
        }
        if outliers:
            specs["outlier_offsets"] = TensorSpec((n + 1,), torch.int32)
            specs["outlier_columns"] = TensorSpec((outliers,), torch.int32)
            specs["outlier_values"] = TensorSpec((outliers,), dtype)
        return specs

    @classmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        return {"in_features": int(metadata["in_features"])}

    def _validate_values(self, layer: str | None) -> None:
        check_padding(self.weight, self.in_features, layer=layer)
        self._check_finite(("tables", "outlier_values"), layer)
        if self.outlier_offsets is None or self.outlier_columns is None:
            return
        offsets, columns = self.outlier_offsets.long(), self.outlier_columns
        if int(offsets[0]) != 0 or int(offsets[-1]) != columns.numel() or bool((offsets.diff() < 0).any()):
            raise ValueRangeError(
                "bad 'outlier_offsets'",
                layer=layer,
                found=f"{int(offsets[0])}..{int(offsets[-1])}",
                allowed=f"ascending from 0 to {columns.numel()}",
            )
        if int(columns.min()) < 0 or int(columns.max()) >= self.in_features:
            raise ValueRangeError(
                "'outlier_columns' out of range",
                layer=layer,
                found=f"{int(columns.min())}..{int(columns.max())}",
                allowed=f"0..{self.in_features - 1}",
            )
        row_starts = torch.zeros(columns.numel() + 1, dtype=torch.bool, device=columns.device)
        row_starts[offsets] = True
        if bool(((columns.diff() <= 0) & ~row_starts[1:-1]).any()):
            raise ValueRangeError(
                "'outlier_columns' out of order",
                layer=layer,
                found="a repeat or descent",
                allowed="ascending per row",
            )

    def _expand(self, ids: Tensor) -> Tensor:
        return self.expand_codes(self.weight[:, ids], ids)

    def _expand_traced(self, ids: Tensor) -> Tensor:
        """The same with shapes that do not depend on the outliers' places: looks at all outliers."""
        return self._with_all_outliers(self._look_up(self.weight[:, ids], ids), ids)

    def expand_codes(self, planes: Tensor, ids: Tensor) -> Tensor:
        """The same, the code planes of these rows being `planes`: `weight` is not looked at."""
        rows = self._look_up(planes, ids)
        if torch.compiler.is_compiling():
            return self._with_all_outliers(rows, ids)
        if self.outlier_offsets is None or self.outlier_columns is None or self.outlier_values is None:
            return rows
        begins = self.outlier_offsets[ids].long()
        counts = self.outlier_offsets[ids + 1].long() - begins
        owner = torch.arange(len(ids), device=ids.device).repeat_interleave(counts)
        within = torch.arange(len(owner), device=ids.device) - (counts.cumsum(0) - counts)[owner]
        entries = begins[owner] + within
        rows[owner, self.outlier_columns[entries].long()] += self.outlier_values[entries].float()
        return rows

    def _look_up(self, planes: Tensor, ids: Tensor) -> Tensor:
        return self.tables[ids].float().gather(1, unpack_codes(planes, self.in_features).long())

    def _with_all_outliers(self, rows: Tensor, ids: Tensor) -> Tensor:
        if self.outlier_offsets is None or self.outlier_columns is None or self.outlier_values is None:
            return rows
        entries = torch.arange(self.outlier_columns.shape[0], dtype=torch.int32, device=ids.device)
        owner = torch.searchsorted(self.outlier_offsets[1:], entries, right=True)
        # Where a row is among ids (one of its places if it is there twice); the spare row takes all others.
        count = ids.shape[0]
        out_features = self.outlier_offsets.shape[0] - 1
        place = torch.full((out_features,), count, dtype=torch.int64, device=ids.device)
        place[ids] = torch.arange(count, device=ids.device)
        padded = torch.cat([rows, rows.new_zeros(1, self.in_features)])
        where = (place[owner], self.outlier_columns.long())
        padded.index_put_(where, self.outlier_values.float(), accumulate=True)
        return padded[place[ids]]


@dataclass(frozen=True, eq=False, repr=False)
class CodebookVector(PackedWeight):
    """Additive codebooks of short vectors; see the module docstring for shapes."""

    weight: Tensor
    codebooks: Tensor
    out_scales: Tensor
    in_features: int

    family: ClassVar[str] = "codebook"
    kind: ClassVar[str] = "codebook_vector"
    quantized_precisions: ClassVar[tuple[str, ...]] = ()
    tensor_names: ClassVar[tuple[str, ...]] = ("weight", "codebooks", "out_scales")
    metadata_fields: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "codebooks",
        "vector_size",
        "scale_dtype",
    )
    weight_dims: ClassVar[int] = 3
    group_size: ClassVar[int] = -1  # type: ignore[misc]

    @property
    def out_features(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    @property
    def vector_size(self) -> int:
        """Inputs v per code."""
        return self.codebooks.shape[-1]

    def metadata(self) -> dict[str, int | str]:
        return {
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "codebooks": self.weight.shape[0],
            "vector_size": self.vector_size,
            "scale_dtype": dtype_name(self.codebooks.dtype),
        }

    @classmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        read = MetadataReader(metadata, cls.metadata_fields, cls.kind, layer)
        n, k = read.integer("out_features", 1), read.integer("in_features", 1)
        count, size = read.integer("codebooks", 1), read.integer("vector_size", 1, MAX_VECTOR_SIZE)
        dtype = read.scale_dtype()
        return {
            "weight": TensorSpec((count, n, -(-k // size)), torch.uint8),
            "codebooks": TensorSpec((count, VECTOR_CENTROIDS, size), dtype),
            "out_scales": TensorSpec((n,), dtype),
        }

    @classmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        return {"in_features": int(metadata["in_features"])}

    def _validate_values(self, layer: str | None) -> None:
        self._check_finite(("codebooks", "out_scales"), layer)

    def _expand(self, ids: Tensor) -> Tensor:
        codes = self.weight[:, ids].long()
        sums = torch.zeros(*codes.shape[1:], self.vector_size, device=codes.device)
        for book, code in zip(self.codebooks.float(), codes, strict=True):
            sums += book[code]
        return sums.flatten(1)[:, : self.in_features] * self.out_scales[ids].float()[:, None]
