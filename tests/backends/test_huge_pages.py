"""Large weights of the CPU backend lie on huge pages where Linux gives them, and nothing else changes."""

from __future__ import annotations

import copy
import gc
import re
from pathlib import Path

import pytest
import torch
from lowbit import backends
from lowbit.backends import huge_pages

from tests.ops.cases import make

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def needs_huge_pages() -> None:
    if not SWITCH.exists() or "[never]" in SWITCH.read_text():
        pytest.skip("this system gives no huge pages")


def huge_bytes(tensor: torch.Tensor) -> int:
    """Bytes on huge pages in the mappings that hold the tensor."""
    begin, total, inside = tensor.data_ptr(), 0, False
    end = begin + tensor.numel() * tensor.element_size()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) < end and int(bounds[2], 16) > begin
        elif inside and line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) * 1024
    return total


def test_whole_pages_are_huge_and_the_rest_is_not() -> None:
    needs_huge_pages()
    source = torch.randint(0, 256, (5, huge_pages.PAGE // 2 + 1), dtype=torch.uint8).T
    placed = huge_pages.contiguous(source)
    assert torch.equal(placed, source)
    assert placed.is_contiguous()
    assert placed.data_ptr() % huge_pages.PAGE == 0
    assert huge_bytes(placed) == 2 * huge_pages.PAGE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
def test_every_dtype(dtype: torch.dtype) -> None:
    source = torch.arange(huge_pages.PAGE).to(dtype)
    assert torch.equal(huge_pages.contiguous(source), source)


def test_small_tensors_stay_where_they_are() -> None:
    small = torch.zeros(huge_pages.PAGE - 1, dtype=torch.uint8)
    assert huge_pages.contiguous(small) is small


def test_memory_is_given_back() -> None:
    needs_huge_pages()

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("\n")

    before = mapped()
    tensors = [huge_pages.contiguous(torch.ones(huge_pages.PAGE, dtype=torch.uint8)) for _ in range(20)]
    part = tensors[0][7:9]
    assert mapped() > before
    del tensors
    gc.collect()
    assert part.tolist() == [1, 1], "a view keeps its memory"
    del part
    gc.collect()
    assert mapped() <= before + 2


@pytest.mark.parametrize("kind", ["onebit", "planes", "scalar"])
def test_laid_out_weights(kind: str) -> None:
    needs_huge_pages()
    packed = make(kind, 8192, 2048).packed
    laid_out = backends.get("cpu").prepare(packed.tensors(), packed.metadata())
    assert huge_bytes(laid_out["weight"]) >= huge_pages.PAGE
    assert torch.equal(copy.deepcopy(laid_out["weight"]), laid_out["weight"])
