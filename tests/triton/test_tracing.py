"""Tracers see the kernels inside the operators; nothing runs, so no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lowbit.triton_kernels.launch import launch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime.jit import KernelInterface

from tests.triton.traced import KINDS

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"codes", "scales", "token_scales", "rests", "sums", "gates", "parts", "low", "y"}


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    """In another process: interpreted kernels, which other tests take, are nothing a tracer knows."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.triton.traced"], capture_output=True, text=True, cwd=ROOT, env=kept
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def traced(program: dict[str, Any]) -> list[dict[str, Any]]:
    launches: list[dict[str, Any]] = program["launches"]
    return launches


def test_graphs_hold_the_kernels(traced: list[dict[str, Any]]) -> None:
    assert {launch["case"] for launch in traced} == {
        f"{kind}, {precision}" for kind in KINDS for precision in ("fast", "high", "exact")
    }
    kernels = {kind: {one["kernel"] for one in traced if one["case"].startswith(kind)} for kind in KINDS}
    assert kernels["mos"] == kernels["planes"] == {"prologue", "product", "exact", "combine"}
    assert kernels["outliers"] == {"prologue", "scalar_selectors", "scalar_floats", "finish_kernel"}


def test_compiled_graphs_depend_on_the_kernels(traced: list[dict[str, Any]]) -> None:
    """Else torch would take a graph from its cache that holds another version of a kernel."""
    assert [launch for launch in traced if not launch["found"]] == []


def test_weights_are_not_copied(traced: list[dict[str, Any]]) -> None:
    """Inductor copies what a kernel may write to; that must be results alone."""
    assert {name for launch in traced for name in launch["cloned"]} <= WRITTEN
    assert all(launch["cloned"] for launch in traced)


def test_graphs_serve_any_number_of_tokens(program: dict[str, Any]) -> None:
    assert program["fixed"] == []


class Kernel(KernelInterface):
    """Notes the current device at its launches."""

    def __init__(self, gpus: FakeGpus) -> None:
        self.gpus = gpus
        self.launches: list[int] = []

    def run(self, *args: Any, **options: Any) -> None:
        self.launches.append(self.gpus.current)
        if options.get("fails"):
            raise RuntimeError("out of resources")


class FakeGpus:
    """Several GPUs, of which one is the current one."""

    def __init__(self) -> None:
        self.current = 0

    def exchange(self, index: int) -> int:
        """Negative: none."""
        before = self.current
        self.current = index if index >= 0 else before
        return before if index >= 0 else -1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpus]:
    fake = FakeGpus()
    monkeypatch.setattr(torch.cuda, "_exchange_device", fake.exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", fake.exchange)
    with FakeTensorMode():
        yield fake


def test_launch_on_the_device_of_the_tensors(gpus: FakeGpus) -> None:
    kernel = Kernel(gpus)
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        launch(kernel, (1,), torch.empty(1, device=device), 2)
    assert kernel.launches == [1, 0, 1]
    assert gpus.current == 0
    with pytest.raises(RuntimeError, match="out of resources"):
        launch(kernel, (1,), torch.empty(1, device="cuda:1"), fails=True)
    assert gpus.current == 0


def test_launch_where_there_is_no_gpu(gpus: FakeGpus) -> None:
    gpus.current = 3
    kernel = Kernel(gpus)
    launch(kernel, (1,), torch.empty(1))
    assert kernel.launches == [3]
