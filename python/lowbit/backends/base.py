"""The door through which a backend enters: what it must say and do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lowbit.formats import CodebookChannel, CodebookScalar, CodebookVector, Planes, Signs

# The value an operator takes for `precision` is the position in this tuple.
PRECISIONS = ("fast", "high", "exact")

Tensors = dict[str, Tensor]
Metadata = Mapping[str, int | str]


class Availability(NamedTuple):
    """Yes or no, and why."""

    ok: bool
    reason: str


class Backend(Protocol):
    """One way to run packed linears.

    A backend may keep the tensors of a layer in a layout of its own: `prepare` makes it from the canonical tensors
    of the format, `restore` undoes it exactly, and `operator` and `rows` read it.
    """

    name: str

    def available(self) -> Availability:
        """Whether this machine and this installation can run the backend at all."""
        ...

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, metadata: Metadata
    ) -> Availability:
        """Whether it can run a layer of `kind` on `device` with activations of `dtype`."""
        ...

    def prepare(self, kind: str, tensors: Tensors, metadata: Metadata) -> Tensors:
        """Canonical tensors to the backend's own layout, under the same names."""
        ...

    def restore(self, kind: str, tensors: Tensors, metadata: Metadata) -> Tensors:
        """The backend's own layout back to canonical tensors."""
        ...

    def rows(self, kind: str, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        """Dequantised rows `ids` (int64, one dimension) of the weight: float32 [len(ids), in_features]."""
        ...

    def operator(self, kind: str) -> Callable[..., Tensor]:
        """The product with laid-out tensors: the torch operator `lowbit::<kind>_linear` or its equal."""
        ...


# What a format's constructor takes from the metadata; the tensors go under their own names.
_FIELDS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "signs": (Signs, ("in_features", "group_size")),
    "planes": (Planes, ("in_features", "group_size")),
    "codebook_channel": (CodebookChannel, ("in_features", "out_features", "axis")),
    "codebook_scalar": (CodebookScalar, ("in_features",)),
    "codebook_vector": (CodebookVector, ("in_features",)),
}


def packed_format(kind: str, tensors: Tensors, metadata: Metadata) -> Any:
    """The format object around canonical tensors that are known to be valid: nothing is checked or copied."""
    cls, fields = _FIELDS[kind]
    return cls(**tensors, **{field: metadata[field] for field in fields})
