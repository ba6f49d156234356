"""The library that is shipped for GPUs: it loads beside a torch with CUDA and registers every kernel.

Here torch has no CUDA, so a library with the three functions of libtorch_cuda that it needs stands in for
that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lowbit.formats import FORMATS

from tests.native import needs_cuda_library

STUB = """
extern "C" int aoti_torch_create_cuda_guard(int, void**) { return 1; }
extern "C" int aoti_torch_delete_cuda_guard(void*) { return 1; }
extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }
"""
PROGRAM = """
import torch
from lowbit.ops import _layouts, _library
assert _library.load() is None
torch.ops.load_library(str(_library.CUDA_LIBRARY))
_layouts.register()
for name in {names}:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("lowbit::" + name, "CUDA"), name
from torch._subclasses import FakeTensorMode
with FakeTensorMode(allow_non_fake_inputs=True):
    planes = torch.empty(3, 20, 5, dtype=torch.uint8, device="cuda")
    tiles = torch.ops.lowbit.cuda_repack_bits(planes, 40, False)
    assert torch.ops.lowbit.cuda_restore_bits(tiles, 40, 20).shape == planes.shape
print("registered")
"""


@needs_cuda_library
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_kernels_are_registered(tmp_path: Path) -> None:
    source, stub = tmp_path / "stub.cpp", tmp_path / "libtorch_cuda.so"
    source.write_text(STUB)
    subprocess.run(
        ["g++", "-shared", "-fPIC", source, "-o", stub, "-Wl,-soname,libtorch_cuda.so"], check=True
    )
    names = [f"{kind}_linear{suffix}" for kind in FORMATS for suffix in ("", "_out")]
    names += [f"cuda_{do}_{what}" for do in ("repack", "restore") for what in ("bits", "scalar", "vector")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=names)],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert done.stdout == "registered\n", done.stderr
