"""Modules with packed weights."""

from __future__ import annotations

from lowbit.modules.embedding import PackedEmbedding, RowScale, TiedEmbedding
from lowbit.modules.linear import (
    CodebookLinear,
    PlanesLinear,
    QuantizedLinear,
    SignsLinear,
    make_linear,
    meta_weight,
)
from lowbit.modules.packed import PackedModule

__all__ = [
    "CodebookLinear",
    "PackedEmbedding",
    "PackedModule",
    "PlanesLinear",
    "QuantizedLinear",
    "RowScale",
    "SignsLinear",
    "TiedEmbedding",
    "make_linear",
    "meta_weight",
]
