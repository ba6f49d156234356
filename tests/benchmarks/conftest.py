"""The scripts of benchmarks/ import each other by plain names, as `python benchmarks/demo.py` lets them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Other processes, because Triton kernels that are interpreted here cannot be compiled here."""
    from cuda_report.disassembly import tool

    try:
        tool("cuobjdump")
        tool("nvdisasm")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool
