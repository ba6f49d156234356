"""Every instruction set of this machine, forced by the environment, keeps the error bound.

Each runs in a process of its own, as a user would force it: LOWBIT_CPU_ISA is read at first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops import cases

_native = pytest.importorskip("lowbit._native", reason="installed without native kernels")

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ((1, 7), (65, 257), (130, 384))
PRECISIONS = ("fast", "high", "exact")

CHILD = """
import sys, torch
from lowbit import _native
from lowbit.ops import _library
from tests.ops import cases, test_isa
assert _library.load() is None
results = {key: layer.native(x, *how, **options) for key, layer, x, *how, options in test_isa.problems()}
torch.save((_native.current_isa(), results), sys.argv[1])
"""


def problems():
    """Every kind, precision and activation width, few tokens and more."""
    for kind in cases.KINDS:
        for n, k in SHAPES:
            for m in (1, 4, 19):
                layer = cases.make(kind, n, k, 1)
                x = cases.activations(m, k, torch.float32, 1)
                widths = (0, 1, 4, 8) if kind == "planes" else (0,)
                for bits in widths:
                    for precision in PRECISIONS if bits == 0 else ("fast",):
                        options = {"activation_bits": bits} if bits else {}
                        yield (kind, n, m, precision, bits), layer, x, precision, options


def child(isa: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LOWBIT_CPU_ISA": isa}
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avxvnni", "avx512", "amx", "neon"])
def test_forced(isa, tmp_path):
    if isa not in _native.available_isas():
        pytest.skip(f"this machine has no {isa}")
    done = child(isa, tmp_path / "results.pt")
    assert done.returncode == 0, done.stderr
    used, results = torch.load(tmp_path / "results.pt")
    assert used == isa
    for key, layer, x, precision, options in problems():
        cases.check(layer, x, results[key], precision, **options)


REFUSED = """
import ctypes
stack = ctypes.create_string_buffer(8192)  # holds what AVX-512 saves, and no tiles
class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(stack), 0, len(stack))), None) == 0
import lowbit
print(lowbit.info())
"""


@pytest.mark.skipif("amx" not in _native.available_isas(), reason="this machine has no amx")
@pytest.mark.parametrize("forced", ["", "avx512", "amx"])
def test_tiles_that_the_operating_system_refuses(forced):
    """It does while a thread has a signal stack too small for them; whoever wants none is not affected."""
    environment = {**os.environ, "LOWBIT_CPU_ISA": forced}
    command = [sys.executable, "-c", REFUSED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    reason = "a thread's alternate signal stack is too small to save tile registers"
    if forced == "amx":
        assert done.returncode != 0
        assert f"LOWBIT_CPU_ISA forces amx, but {reason}" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "kernels    avx512 (" in done.stdout
    assert (f"not amx: {reason}" in done.stdout) == (forced == "")


@pytest.mark.parametrize("isa", ["neon", "avx1024"])
def test_forcing_what_the_machine_lacks_is_an_error(isa, tmp_path):
    if isa in _native.available_isas():
        pytest.skip(f"this machine has {isa}")
    done = child(isa, tmp_path / "results.pt")
    assert done.returncode != 0
    assert isa in done.stderr
