"""Where the package was installed without native kernels, and says so, their tests have nothing to run.

A library that was built and is not there or does not load is no reason to skip: those tests must fail.
"""

from __future__ import annotations

import pytest
from lowbit._build import build_record
from lowbit.ops import _library

_failure = None if build_record()["native"] else _library.load()
needs_native = pytest.mark.skipif(_failure is not None, reason=f"no native kernels: {_failure}")

_cuda = str(build_record().get("cuda", "no native kernels"))
# Why there are none; "" where there are.
without_cuda = "" if _cuda.startswith("nvcc") else f"no CUDA kernels: {_cuda}"
without_emulated = (
    "" if build_record().get("emulated") else "built without the emulated device (make build has it)"
)
needs_cuda_library = pytest.mark.skipif(without_cuda != "", reason=without_cuda)
needs_emulated = pytest.mark.skipif(without_emulated != "", reason=without_emulated)
