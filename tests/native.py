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
needs_cuda_library = pytest.mark.skipif(not _cuda.startswith("nvcc"), reason=f"no CUDA kernels: {_cuda}")
