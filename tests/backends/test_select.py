"""Which backend runs a layer, and what is said when one cannot."""

from __future__ import annotations

import pytest
import torch
from lowbit import backends
from lowbit.backends import cpu as cpu_backend
from lowbit.errors import BackendError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)


def _select(
    kind: str = "signs", device: torch.device = CPU, dtype=torch.float32, **options
) -> backends.Choice:
    return backends.select(kind, device=device, dtype=dtype, **options)


def _without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = backends.Availability(False, "no compiler at installation")
    monkeypatch.setattr(cpu_backend.CpuBackend, "available", lambda self: gone)


def test_first_that_can_is_taken_and_the_others_have_reasons() -> None:
    choice = _select()
    assert choice.backend.name == "cpu"
    assert set(choice.rejected) == {"cuda", "triton"}
    assert all(choice.rejected.values())


def test_torch_serves_what_the_kernels_do_not() -> None:
    choice = _select(dtype=torch.float64)
    assert choice.backend.name == "torch"
    assert "float64" in choice.rejected["cpu"]
    assert "meta" in _select(device=torch.device("meta")).rejected["cpu"]


def test_no_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_native(monkeypatch)
    choice = _select()
    assert choice.backend.name == "torch"
    assert choice.rejected["cpu"] == "no compiler at installation"
    assert backends.availability()["cpu"] == (False, "no compiler at installation")


def test_argument_forces() -> None:
    choice = _select(backend="torch")
    assert choice.backend.name == "torch"
    assert choice.reason.startswith("forced")
    assert choice.rejected == {}


def test_environment_forces_and_the_argument_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "torch")
    assert _select().backend.name == "torch"
    assert _select(backend="cpu").backend.name == "cpu"


def test_a_forced_backend_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"layer 'head'.*'cpu' cannot run.*float64"):
        _select(dtype=torch.float64, backend="cpu", layer="head")
    with pytest.raises(BackendError, match=r"'cuda' cannot run.*runs on CUDA tensors, the layer is on cpu"):
        _select(backend="cuda")
    _without_native(monkeypatch)
    monkeypatch.setenv(backends.ENVIRONMENT, "cpu")
    with pytest.raises(BackendError, match="no compiler at installation"):
        _select()


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"found 'gpu'; allowed cuda, triton, cpu, torch"):
        _select(backend="gpu")
    monkeypatch.setenv(backends.ENVIRONMENT, "avx")
    with pytest.raises(BackendError, match="LOWBIT_BACKEND names no backend; found 'avx'"):
        _select()


def test_another_backend_enters_through_register(monkeypatch: pytest.MonkeyPatch) -> None:
    class Triton(type(backends.get("torch"))):  # type: ignore[misc]
        name = "triton"

    monkeypatch.setattr(backends, "_REGISTERED", dict(backends._REGISTERED))
    backends.register(Triton())
    assert _select().backend.name == "triton"
    Triton.name = "mine"
    with pytest.raises(BackendError, match="unknown backend name; found 'mine'"):
        backends.register(Triton())
