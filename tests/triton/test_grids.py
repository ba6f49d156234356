"""Grids that a GPU takes: nothing runs."""

from __future__ import annotations

import pytest
import torch
from lowbit.formats import PRECISIONS
from lowbit.triton_kernels.launch import dry_run

from tests.ops import cases
from tests.triton import bits, codebook

LIMIT = 65535  # CUDA's, of the second and third dimension
KINDS_OF_BITS = ("signs", "onebit", "mos", "planes")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_more_tokens_than_programs_in_the_later_dimensions(kind: str, precision: str) -> None:
    layer = (bits if kind in KINDS_OF_BITS else codebook).make(kind, 5, 40)
    with dry_run() as launches:
        layer.native(torch.empty(LIMIT + 1, 40, device="meta"), precision)
    assert len(launches) > 1
    for launch in launches:
        assert all(count <= LIMIT for count in launch.grid[1:]), launch
