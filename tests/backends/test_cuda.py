"""When the CUDA backend can run, and what it says when it cannot; its results are tested in tests/cuda."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lowbit import backends
from lowbit.backends.cuda import CudaBackend
from lowbit.ops import _library

load = _library._load_cuda.__wrapped__  # not the answer of an earlier call


def _gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> CudaBackend:
    """A backend that has its operators, and a GPU of that capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(CudaBackend, "available", lambda self: backends.Availability(True, "CUDA kernels"))
    return CudaBackend()


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert load() == f"torch {torch.__version__} is built without CUDA"


def test_kernels_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "CUDA_LIBRARY", tmp_path / "_torch_cuda.so")
    monkeypatch.setattr(_library, "build_record", lambda: {"cuda": "no nvcc found"})
    assert load() == "installed without CUDA kernels: no nvcc found"
    monkeypatch.setattr(_library, "build_record", lambda: {})
    assert "_torch_cuda.so is missing" in str(load())


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    library = tmp_path / "_torch_cuda.so"
    library.touch()
    monkeypatch.setattr(_library, "CUDA_LIBRARY", library)
    assert load() == "torch finds no NVIDIA GPU, or no driver for it"


def test_library_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    library = tmp_path / "_torch_cuda.so"
    library.touch()
    monkeypatch.setattr(_library, "CUDA_LIBRARY", library)
    if _library.load() is not None:
        pytest.skip("no native operators")
    assert f"{library} does not load with torch {torch.__version__}" in str(load())


def test_what_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, half = torch.device("cuda", 0), torch.float16
    backend = _gpu(monkeypatch, (9, 0))
    assert backend.supports("planes", gpu, half) == (True, "CUDA kernels, Some GPU, compute capability 9.0")
    assert "the layer is on cpu" in backend.supports("planes", torch.device("cpu"), half).reason
    assert "not torch.float64" in backend.supports("planes", gpu, torch.float64).reason


def test_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _gpu(monkeypatch, (7, 5)).supports("planes", torch.device("cuda", 0), torch.float16)
    assert answer == (
        False,
        "needs compute capability 8.0 or newer; cuda:0 is Some GPU, compute capability 7.5",
    )


def test_it_comes_first_and_info_says_why_not() -> None:
    assert next(iter(backends.availability())) == "cuda"
    answer = backends.availability()["cuda"]
    assert answer.ok == torch.cuda.is_available() or not _library.CUDA_LIBRARY.exists()
    assert answer.reason
