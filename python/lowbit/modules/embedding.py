"""Embeddings that read their rows from a packed weight: their own, or that of the tied head."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowbit.errors import DtypeError
from lowbit.formats import PackedWeight
from lowbit.modules.packed import LinearSettings, PackedModule, cast_dtype
from lowbit.schemes import Scheme

_ID_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class RowScale(NamedTuple):
    """Factor on every row: a plain number, or one `rounded` to the dtype of the rows first (Gemma)."""

    value: float = 1.0
    rounded: bool = False

    def apply(self, rows: Tensor) -> Tensor:
        """rows times the factor, in the rows' dtype."""
        if self.value == 1.0:
            return rows
        if self.rounded:
            return rows * torch.tensor(self.value, dtype=rows.dtype, device=rows.device)
        return rows * self.value


class PackedEmbedding(PackedModule):
    """Rows of a packed weight [num_embeddings, embedding_dim], unpacked one by one.

    Args:
        packed: the weight; rows are its output features.
        dtype: of the rows that come out; follows `.to(dtype)`.
        row_scale: factor on every row.
        backend, scheme, name: see `PackedModule`.

    Shapes: ids int [...] -> [..., embedding_dim].

    Raises:
        DtypeError: the ids are no integers.
        ValueRangeError: an id is out of range.
    """

    def __init__(
        self,
        packed: PackedWeight,
        *,
        dtype: torch.dtype,
        row_scale: RowScale = RowScale(),  # noqa: B008 (immutable)
        backend: str | None = None,
        scheme: Scheme | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(packed, dtype=dtype, scheme=scheme, backend=backend, name=name)
        self.row_scale = row_scale
        self.num_embeddings = self.out_features
        self.embedding_dim = self.in_features

    def forward(self, ids: Tensor) -> Tensor:
        return _lookup(self, ids, self.dtype, self.row_scale)

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, bits_per_weight={self.bits_per_weight:.3f}, "
            f"backend={self.backend}"
        )


class TiedEmbedding(LinearSettings, nn.Module):
    """Rows of the packed weight of another layer, usually the head.

    The weight is in memory once, and is saved and moved with that layer.

    Args:
        head: the layer that owns the weight.
        dtype: of the rows that come out; follows `.to(dtype)`.
        row_scale: factor on every row.

    Shapes: ids int [...] -> [..., embedding_dim].

    Raises:
        DtypeError: the ids are no integers.
        ValueRangeError: an id is out of range.
    """

    def __init__(
        self,
        head: PackedModule,
        *,
        dtype: torch.dtype,
        row_scale: RowScale = RowScale(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        # In a tuple, so that the head is not a submodule here: its tensors belong to it alone.
        self._head = (head,)
        self.kind = head.kind
        self.layer_name = None  # its own is not known here
        self.dtype = dtype
        self.row_scale = row_scale
        self.num_embeddings = head.out_features
        self.embedding_dim = head.in_features

    @property
    def head(self) -> PackedModule:
        """The layer that owns the weight."""
        return self._head[0]

    @property
    def weight(self) -> Tensor:
        """The head's packed tensor, for code that asks an embedding for its device."""
        return self.head.get_buffer("weight")

    def dequantize(self) -> Tensor:
        """float32 [num_embeddings, embedding_dim], without the factor on the rows."""
        return self.head.dequantize()

    def forward(self, ids: Tensor) -> Tensor:
        return _lookup(self.head, ids, self.dtype, self.row_scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TiedEmbedding:
        super()._apply(fn, recurse)
        self.dtype = cast_dtype(fn, self.dtype)
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, rows of {self.head.layer_name or 'the tied layer'}"
        )


def _lookup(source: PackedModule, ids: Tensor, dtype: torch.dtype, row_scale: RowScale) -> Tensor:
    if ids.dtype not in _ID_DTYPES:
        raise DtypeError(
            "wrong dtype of the ids", layer=source.layer_name, found=ids.dtype, allowed=_ID_DTYPES
        )
    rows = source.rows(ids.reshape(-1).long()).to(dtype)
    return row_scale.apply(rows).reshape(*ids.shape, source.in_features)
