"""The door through which a backend enters: what it must say and do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lowbit.formats import FORMATS, PackedWeight
from lowbit.formats.base import Metadata

Tensors = dict[str, Tensor]


class Availability(NamedTuple):
    """Yes or no, and why."""

    ok: bool
    reason: str


class KernelChoice(NamedTuple):
    """A kernel, why it is the one, and why others of its backend are not."""

    kernel: str
    reason: str = ""
    rejected: Mapping[str, str] = MappingProxyType({})


class Backend(Protocol):
    """One way to run packed linears.

    A backend may keep the tensors of a layer in a layout of its own: `prepare` makes it from the canonical
    tensors of the format, `restore` undoes it exactly, and `operator` and `rows` read it.
    """

    name: str
    # Whether `prepare` may choose a layout of which fewer bits than stored cannot be read.
    packs_digits: bool

    def available(self) -> Availability:
        """Whether this machine and this installation can run the backend at all."""
        ...

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, *, forced: bool = False
    ) -> Availability:
        """Whether it can run here, and a layer of `kind` on `device` with activations of `dtype`.

        The device is looked at first: nothing of a backend is loaded for layers elsewhere. `forced`: it was
        asked for by name.
        """
        ...

    def prepare(self, tensors: Tensors, metadata: Metadata, any_bits: bool = False) -> Tensors:
        """Canonical tensors to the backend's own layout, under the same names.

        With `any_bits` products may read any number of the first bits of a code, not all alone.
        """
        ...

    def restore(self, tensors: Tensors, metadata: Metadata) -> Tensors:
        """The backend's own layout back to canonical tensors."""
        ...

    def rows(self, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        """Dequantised rows `ids` (int64 [n], in range) of the weight: float32 [n, in_features]."""
        ...

    def operator(self, kind: str) -> Callable[..., Tensor]:
        """The product with laid-out tensors: the torch operator `lowbit::<kind>_linear` or its equal."""
        ...

    def choose(self, kind: str, x: Tensor, arguments: Sequence[Any]) -> KernelChoice:
        """The kernel that `operator(kind)(x, *arguments)` would run. Nothing runs; x may be on any device."""
        ...


def packed_format(tensors: Tensors, metadata: Metadata) -> PackedWeight:
    """The format object around canonical tensors that are known to be valid: nothing is checked or copied."""
    cls = FORMATS[str(metadata["kind"])]
    return cls(**tensors, **cls._fields(metadata))
