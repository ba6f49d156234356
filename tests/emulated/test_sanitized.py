"""The same tests on the libraries that AddressSanitizer and UBSan watch: local arrays and host code too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulated.device import BUILD, KIND
from tests.native import needs_emulated

ROOT = Path(__file__).resolve().parents[2]
# One order of threads is enough; reports and registration look at another library.
SELECTED = "not reversed and not test_report and not test_registration"


def runtime(name: str) -> str:
    """A library of the compiler's that must be there before Python is."""
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@needs_emulated
@pytest.mark.skipif(KIND != "", reason="these tests themselves run sanitized")
@pytest.mark.parametrize(("folder", "library"), [("emulated", "emulated_tests"), ("cuda", "lowbit_emulated")])
def test_tests_pass_sanitized(folder: str, library: str) -> None:
    assert (BUILD / f"lib{library}_sanitized.so").exists()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/{folder}", "-x", "--capture=no", "-k", SELECTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "LOWBIT_EMULATED_KIND": "_sanitized",
            # The C++ library too: its exceptions are looked up when Python starts, which does without it.
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        },
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
