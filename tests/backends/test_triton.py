"""When the Triton backend can run, and what it says when it cannot; its results are tested in tests/ops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lowbit import backends
from lowbit.backends.triton import TritonBackend

GPU = torch.device("cuda", 0)


def _python(code: str, *paths: Path, **variables: str) -> str:
    """stdout of a program, with `paths` before everything else, and Triton not told to interpret."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", backends.ENVIRONMENT)}
    path = os.pathsep.join([*map(str, paths), kept.pop("PYTHONPATH", "")]).strip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**kept, **variables, **({"PYTHONPATH": path} if path else {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# A layer runs without Triton, `info` says what is wrong with it, and forcing the backend names the reason.
PROGRAM = """
import sys, torch, lowbit
from lowbit import backends, ops
weight = torch.tensor([[15], [5], [0]], dtype=torch.uint8)
y = ops.signs_linear(torch.arange(1.0, 5.0), weight, precision="exact")
assert y.tolist() == [10.0, -2.0, -10.0]
assert "triton" not in sys.modules, "a layer on the CPU has imported Triton"
print(lowbit.info())
try:
    backends.select("signs", device=torch.device("cuda"), dtype=torch.float16, backend="triton")
except lowbit.BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise ModuleNotFoundError(\"No module named 'triton'\", name='triton')", "Triton is not installed"),
        ("import no_such_module", "Triton does not import: No module named 'no_such_module'"),
        (
            "raise RuntimeError('libtriton.so: bad')",
            "Triton does not import: RuntimeError: libtriton.so: bad",
        ),
        ("raise SyntaxError('half a file')", "Triton does not import: SyntaxError: half a file"),
        ("__version__ = '2.1.0'", "Triton 2.1.0 is too old: the kernels need 3.6 or newer"),
    ],
)
def test_no_triton_or_a_broken_one(tmp_path: Path, module: str, reason: str) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(module)
    printed = _python(PROGRAM, tmp_path)
    assert f"triton   no   {reason}" in printed
    assert f"backend 'triton' cannot run it; found {reason}" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu() -> None:
    pytest.importorskip("triton")
    assert "but torch finds no GPU" in _python(PROGRAM)


def test_interpreted_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    layer = {"kind": "signs", "device": torch.device("cpu"), "dtype": torch.float32}
    choice = backends.select(**layer)
    assert choice.backend.name != "triton"
    assert "when asked for by name" in choice.rejected["triton"]
    assert backends.select(**layer, backend="triton").backend.name == "triton"


def _supports(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], **layer) -> backends.Availability:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(TritonBackend, "available", lambda self: backends.Availability(True, "Triton 3.7.1"))
    return TritonBackend().supports(**{"kind": "planes", "device": GPU, "dtype": torch.float16, **layer})


def test_what_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _supports(monkeypatch, (9, 0)) == (True, "Triton 3.7.1, Some GPU, compute capability 9.0")
    assert "the layer is on cpu" in _supports(monkeypatch, (9, 0), device=torch.device("cpu")).reason
    assert "not torch.float64" in _supports(monkeypatch, (9, 0), dtype=torch.float64).reason
    for kind in ("signs", "planes", "codebook"):
        reason = _supports(monkeypatch, (7, 5), kind=kind).reason
        assert "needs compute capability 8.0 or newer (for older ones Triton compiles `exact` alone" in reason
        assert reason.endswith("cuda:0 is Some GPU, compute capability 7.5")


def test_amd_is_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.3")
    assert _supports(monkeypatch, (9, 4)) == (True, "Triton 3.7.1, Some GPU: never tested on AMD GPUs")
