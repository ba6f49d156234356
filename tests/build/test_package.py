"""The wheel: what is in it, what its libraries need, and that a C project can use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
COMPILER = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """stdout + stderr of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=env or ENVIRONMENT, cwd=cwd
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def wheel(sources: Path, folder: Path, env: dict[str, str]) -> tuple[str, Path]:
    """Name of the wheel built from `sources`, and a folder with what is in it."""
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        sources,
        env=env,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return path.name, folder / "site"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel. Built in the source tree, with the objects that `make build` has compiled."""
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    name, site = wheel(ROOT, tmp_path_factory.mktemp("native"), ENVIRONMENT)
    assert not name.endswith("none-any.whl")
    return site


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a machine without a compiler."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, sources / name)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "lib", "include", "_build.json", "*.egg-info")
    for name in ("python", "triton_kernels"):
        shutil.copytree(ROOT / name, sources / name, ignore=unwanted)
    environment = {**ENVIRONMENT, "CXX": "/nonexistent/c++"}
    name, site = wheel(sources, tmp_path_factory.mktemp("pure"), environment)
    assert name.endswith("py3-none-any.whl")
    return site


def python(site: Path, code: str, *, cwd: Path | None = None, **env: str) -> str:
    """Output of a program that imports lowbit from `site`."""
    code = f"import lowbit; assert lowbit.__file__.startswith({str(site)!r}), lowbit.__file__\n{code}"
    return run(sys.executable, "-c", code, env={**ENVIRONMENT, "PYTHONPATH": str(site), **env}, cwd=cwd)


LINEAR = """
import torch
from lowbit.ops import signs_linear
y = signs_linear(torch.arange(1.0, 5.0), torch.tensor([[15], [5], [0]], dtype=torch.uint8), precision="exact")
print(y.tolist(), {name: tuple(answer) for name, answer in lowbit.info().backends.items()})
"""


def test_contents(native: Path) -> None:
    package = native / "lowbit"
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert {
        "lib/liblowbit.so",
        "lib/_torch_cpu.so",
        "lib/cmake/lowbit/lowbitConfig.cmake",
        "include/lowbit.h",
        "_build.json",
        "_native.pyi",
        "py.typed",
        "ops/signs.py",
    } <= found
    assert any(re.fullmatch(r"_native\..*\.so", name) for name in found)
    record = json.loads((package / "_build.json").read_text())
    assert record["native"] is True
    cuda = {"lib/liblowbit_cuda.so", "lib/_torch_cuda.so", "include/lowbit_cuda.h"}
    assert found & cuda == (cuda if record["cuda"].startswith("nvcc ") else set())
    assert not any("test" in name for name in found)


def test_triton_kernels(native: Path, pure: Path) -> None:
    """In both wheels, inside the package alone: the bare name belongs to another one."""

    def files(folder: Path) -> set[Path]:
        inside = (folder / "triton_kernels").rglob("*")
        return {path.relative_to(folder) for path in inside if path.suffix in (".py", ".json")}

    kernels = files(ROOT)
    assert {Path("triton_kernels/bits/product.py"), Path("triton_kernels/tiles/sm_90.json")} <= kernels
    find = "import importlib.util; print(importlib.util.find_spec('triton_kernels'), lowbit.triton_kernels)"
    for site in (native, pure):
        assert files(site / "lowbit") == kernels
        assert {path.name.split("-")[0] for path in site.iterdir()} == {"lowbit"}
        bare, inside = python(site, f"import lowbit.triton_kernels; {find}", cwd=site).strip().split(" ", 1)
        assert bare == "None"
        assert str(site / "lowbit/triton_kernels/__init__.py") in inside


# Ours and torch's that each library needs. No CUDA library: its runtime is inside.
NEEDED = {
    "liblowbit": set(),
    "liblowbit_cuda": set(),
    "_native": {"liblowbit.so"},
    "_torch_cpu": {"liblowbit.so", "libtorch_cpu.so"},
    "_torch_cuda": {"liblowbit.so", "liblowbit_cuda.so", "libtorch_cpu.so", "libtorch_cuda.so"},
}


def test_libraries_depend_on_nothing_unstable(native: Path) -> None:
    """No C++ symbol of torch: one binary for many torch versions. No path of the machine that built it."""
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("binutils (nm, readelf) are not installed")
    for library in (native / "lowbit").rglob("*.so"):
        symbols = run("nm", "-DC", library)
        assert not re.search(r"\b(at|c10|torch)::", symbols), library
        dynamic = run("readelf", "-d", library)
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
        assert not any(name.startswith(("libpython", "libc10")) for name in needed), library
        lowbit = {name for name in needed if "lowbit" in name or "torch" in name}
        assert lowbit == NEEDED[library.name.split(".")[0]], library
        assert not any("cuda" in name for name in needed - lowbit), library
        for path in re.findall(r"(?:RPATH|RUNPATH).*\[(.*)\]", dynamic):
            assert path.startswith("$ORIGIN"), library
        exported = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
        if library.name.startswith("liblowbit"):
            prefix = library.stem.removeprefix("lib") + "_"
            assert exported
            assert all(name.startswith(prefix) for name in exported)


def test_wheel_runs(native: Path) -> None:
    output = python(native, LINEAR)
    assert "[10.0, -2.0, -10.0]" in output
    assert "'cpu': (True" in output


def test_without_a_compiler(pure: Path) -> None:
    """The torch path works, and says why there is no other."""
    reason = "CXX=/nonexistent/c++ is not an executable"
    output = python(pure, LINEAR)
    assert "[10.0, -2.0, -10.0]" in output
    assert f"'cpu': (False, 'installed without native kernels: {reason}')" in output
    attempt = f"try:\n exec({LINEAR!r})\nexcept lowbit.BackendError as e: print(e)"
    forced = python(pure, attempt, LOWBIT_BACKEND="cpu")
    assert reason in forced
    assert "[10.0" not in forced


def test_c_project(native: Path, tmp_path: Path) -> None:
    """find_package(lowbit) in the installed package, and the ten lines of C of the examples."""
    prefix = python(native, "print(lowbit.cmake_prefix())").strip()
    example = ROOT / "examples" / "c"
    run("cmake", "-S", example, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "linear") == "10 -2 -10\n"


def test_one_version(native: Path) -> None:
    (declared,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    told = python(native, "from lowbit import _native; print(lowbit.__version__, _native.version())")
    assert told.split() == [declared, declared]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("release 12.4, V12.4.131", "is version 12.4.131; 12.8 or newer is needed"),
        ("release 13.0, V13.0.88", "13.0.88 does not compile with this host compiler"),
        ("", "does not run"),
    ],
)
def test_nvcc_that_will_not_do(tmp_path: Path, version: str, status: str) -> None:
    """The GPU kernels are left out, with the reason; the rest is configured as ever."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" || exit 1\n')
    nvcc.chmod(0o755)
    environment = {**ENVIRONMENT, "CUDACXX": str(nvcc)}
    run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", env=environment)
    assert (tmp_path / "build" / "cuda_status.txt").read_text() == f"{nvcc} {status}"


@pytest.mark.slow
def test_neon(tmp_path: Path) -> None:
    """The library compiles for 64-bit ARM; where an emulator is installed, the NEON kernels compute right."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None:
        pytest.skip("aarch64-linux-gnu-g++ is not installed")
    target = (
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
    )
    # -O1: half the time to compile.
    options = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1", "-DLOWBIT_BUILD_TESTS=ON")
    run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *target, *options)
    programs = ("linear_test", "bits_test")
    run("cmake", "--build", tmp_path, "--target", "lowbit", *(programs if emulator else ()))
    for name in programs if emulator else ():
        assert "neon" in run(emulator, "-L", "/usr/aarch64-linux-gnu", tmp_path / name)
