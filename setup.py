"""Builds the native parts with CMake and ninja, or says why it cannot.

What was built, and the reason where nothing was, is written to lowbit/_build.json, which `lowbit info` shows.
Without a C++ compiler the package installs as pure Python and computes through torch. One that is there but
fails stops the installation: a slow package must never be the silent result of a broken build.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
# The bare name belongs to another package, for which inference engines look.
TRITON_KERNELS = "lowbit.triton_kernels"
PREFIX = Path("lowbit")  # everything native is installed below the package
# One folder for editable installs and wheels, so that neither compiles what the other has.
BUILD = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}"


def find_compiler() -> tuple[str | None, str]:
    """The C++ compiler to use, or None and the reason."""
    wanted = os.environ.get("CXX")
    if wanted:
        found = shutil.which(wanted.split()[0])
        return (wanted, "") if found else (None, f"CXX={wanted} is not an executable")
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return name, ""
    return None, "no C++ compiler found (looked for c++, g++, clang++; CXX is not set)"


def find_nvcc() -> str | None:
    """The nvcc to use, if any: CUDACXX, else the pip package beside this interpreter, else the one on PATH.

    Whether it will do is for CMake to say (cmake/FindNvcc.cmake); without one the GPU kernels are left out.
    """
    if "CUDACXX" in os.environ:
        return os.environ["CUDACXX"]
    packaged = sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/bin/nvcc"))
    return str(packaged[-1]) if packaged else shutil.which("nvcc")


COMPILER, WHY_NOT = find_compiler()


class NativeDistribution(Distribution):
    """A platform wheel if and only if native code goes into it."""

    def has_ext_modules(self) -> bool:
        return COMPILER is not None


class BuildNative(Command):
    """Configures, builds and installs CMakeLists.txt into the package (the source tree when editable)."""

    description = "build the native kernels and the torch operators"
    user_options: ClassVar = [("build-lib=", "b", "directory to put the package in")]

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.parallel: int | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"), ("parallel", "parallel"))

    def run(self) -> None:
        assert self.build_lib is not None
        package = (ROOT / "python" if self.editable_mode else Path(self.build_lib).resolve()) / PREFIX
        package.mkdir(parents=True, exist_ok=True)
        record: dict[str, object] = {"native": COMPILER is not None, "reason": WHY_NOT}
        if COMPILER is None:
            print(f"lowbit: {WHY_NOT}; installing without native kernels, the plain torch path will be used")
            (package / "_build.json").write_text(json.dumps(record, indent=2) + "\n")
            return
        record |= self._build(package)
        (package / "_build.json").write_text(json.dumps(record, indent=2) + "\n")

    def _build(self, package: Path) -> dict[str, object]:
        import ninja
        import pybind11

        assert COMPILER is not None
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(BUILD),
            "-G",
            "Ninja",
            # Build isolation puts ninja elsewhere every time; the cache would point to the last place.
            f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
            f"-DCMAKE_CXX_COMPILER={COMPILER.split()[0]}",
            f"-DCMAKE_CXX_FLAGS={' '.join([*COMPILER.split()[1:], os.environ.get('CXXFLAGS', '')]).strip()}",
            f"-DCMAKE_INSTALL_PREFIX={package}",
            "-DCMAKE_INSTALL_LIBDIR=lib",
            "-DCMAKE_INSTALL_INCLUDEDIR=include",
            "-DLOWBIT_BUILD_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        try:
            self._call(configure)
            # ninja would run more jobs than there are cores; one of nvcc takes hundreds of megabytes.
            self._call(["cmake", "--build", str(BUILD), f"-j{self.parallel or os.cpu_count()}"])
            self._call(["cmake", "--install", str(BUILD)])
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"lowbit: the native build failed ({error}). The compiler's messages are above; C++20 is "
                "needed. To install without native kernels set CXX=none."
            ) from None
        version = subprocess.run(
            [COMPILER.split()[0], "--version"], capture_output=True, text=True, check=True
        )
        return {
            "compiler": version.stdout.splitlines()[0],
            "machine": platform.machine(),
            "python": sysconfig.get_config_var("SOABI"),
            "cuda": (BUILD / "cuda_status.txt").read_text(),
            # The GPU kernels on the emulated device, for the tests.
            "emulated": "LOWBIT_BUILD_EMULATED:BOOL=ON" in (BUILD / "CMakeCache.txt").read_text(),
        }

    @staticmethod
    def _call(command: list[str]) -> None:
        import cmake
        import ninja

        # The build requirements' own programs, wherever pip put them, before any of the system.
        path = os.pathsep.join([cmake.CMAKE_BIN_DIR, ninja.BIN_DIR, os.environ.get("PATH", "")])
        print("lowbit:", " ".join(command), flush=True)
        nvcc = find_nvcc()
        environment = {**os.environ, "PATH": path} | ({"CUDACXX": nvcc} if nvcc else {})
        subprocess.run(command, check=True, env=environment)

    # The protocol of setuptools' sub-commands: which files come from here, and to where.
    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands: ClassVar = [*build.sub_commands, ("build_native", None)]

    def run(self) -> None:
        # setuptools would put modules into the wheel that the sources no longer have.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    distclass=NativeDistribution,
    ext_modules=[],
    cmdclass={"build": Build, "build_native": BuildNative},
    packages=[
        *find_packages("python"),
        TRITON_KERNELS,
        *(f"{TRITON_KERNELS}.{name}" for name in find_packages("triton_kernels")),
    ],
    package_dir={"": "python", TRITON_KERNELS: "triton_kernels"},
)
