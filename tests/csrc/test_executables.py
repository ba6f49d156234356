"""The C++ tests: one program per tests/csrc/*_test.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The folder of `make build`: the kernels are compiled there already.
BUILD = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}"
PROGRAMS = sorted(path.stem for path in Path(__file__).parent.glob("*_test.cpp"))


def run(*command: object, **env: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **env}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def programs() -> Path:
    if not (BUILD / "CMakeCache.txt").exists():
        pytest.skip("the package was installed without native kernels")
    run("cmake", "-DLOWBIT_BUILD_TESTS=ON", BUILD)
    run("cmake", "--build", BUILD)
    return BUILD


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(programs: Path, name: str) -> None:
    run(programs / name)
