"""Read loops: what memory alone costs, over exactly the tensors that a kernel reads.

The loops are native code that does nothing but load; the best of them is the floor of that kernel in this
run. They differ in chains of loads, in software prefetch, and in the pages the tensors lie on.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lowbit import _native
from lowbit.environment import last_level_cache
from numpy.typing import NDArray
from timing import Candidate
from torch import Tensor

Arrays = list[NDArray[np.uint8]]
READ = "memory read"
BIG = max(256 * 1024**2, 4 * last_level_cache())  # bytes: past every cache


@dataclass(frozen=True)
class Loop:
    """One way to read: independent chains of 16-byte loads, and how far ahead lines are asked for."""

    accumulators: int
    prefetch_bytes: int = 0
    huge_pages: bool = False

    def __str__(self) -> str:
        parts = [f"{self.accumulators} chain" + "s" * (self.accumulators > 1)]
        if self.prefetch_bytes:
            parts.append(f"prefetch {self.prefetch_bytes}")
        if self.huge_pages:
            parts.append("huge pages")
        return ", ".join(parts)


LOOPS = (
    Loop(1),
    Loop(4),
    Loop(8, prefetch_bytes=1024),
    Loop(8, prefetch_bytes=4096),
    Loop(4, huge_pages=True),
    Loop(8, prefetch_bytes=4096, huge_pages=True),
)


def candidates(name: str, copies: Sequence[Mapping[str, Tensor]]) -> list[Candidate]:
    """Every loop over every copy of a kernel's tensors."""
    plain = [[_bytes(tensor) for tensor in copy.values()] for copy in copies]
    huge = _on_huge_pages(plain)
    nbytes = sum(array.nbytes for array in plain[0])
    found = []
    for loop in LOOPS:
        read = partial(_native.read, accumulators=loop.accumulators, prefetch_bytes=loop.prefetch_bytes)
        calls = [partial(read, arrays) for arrays in (huge if loop.huge_pages else plain)]
        found.append(Candidate(f"{name}: {loop}", calls, nbytes))
    return found


def bandwidth(copies: int = 4) -> list[Candidate]:
    """Every loop over arrays far larger than the caches: the read bandwidth of the run."""
    return candidates(READ, [{"": torch.ones(BIG // copies, dtype=torch.uint8)} for _ in range(copies)])


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.view(-1).view(torch.uint8).numpy()


def _on_huge_pages(copies: Sequence[Arrays]) -> list[Arrays]:
    """The same bytes in one mapping that asks the system for huge pages, which it may refuse."""
    line = 64
    sizes = [[-(-array.nbytes // line) * line for array in arrays] for arrays in copies]
    mapping = mmap.mmap(-1, max(1, sum(map(sum, sizes))))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, dtype=np.uint8)
    moved: list[Arrays] = []
    start = 0
    for arrays, rounded in zip(copies, sizes, strict=True):
        moved.append([])
        for array, size in zip(arrays, rounded, strict=True):
            target = memory[start : start + array.nbytes]
            target[:] = array
            moved[-1].append(target)
            start += size
    return moved
