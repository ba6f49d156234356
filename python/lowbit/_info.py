"""`info`: what is installed, what was built, and which backends can run here."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata

import torch

import lowbit
from lowbit import backends
from lowbit._build import build_record

_PACKAGES = ("torch", "triton", "transformers", "safetensors", "numpy")


@dataclass(frozen=True)
class Info:
    """Attributes:
    lowbit, python: versions. packages: name -> version, None where it is not installed.
    machine: architecture of the processor.
    build: what the installation compiled, and with what; or why nothing.
    instruction_sets: those the native kernels can use here, slowest first; empty without native kernels.
    instruction_set: the one they use; refused: why the operating system keeps the best from it, else None.
    threads: that they use.
    gpus: that torch finds, with compute capability; driver: the newest CUDA it serves, None without one.
    backends: name -> (can it run, why or why not), in the order they are tried.
    forced: the backend LOWBIT_BACKEND asks for.
    """

    lowbit: str
    python: str
    packages: dict[str, str | None]
    machine: str
    build: dict[str, object]
    instruction_sets: tuple[str, ...]
    instruction_set: str | None
    refused: str | None
    threads: int | None
    gpus: tuple[str, ...]
    driver: str | None
    backends: dict[str, backends.Availability]
    forced: str | None

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return asdict(self) | {"backends": {name: answer._asdict() for name, answer in self.backends.items()}}

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in self.packages.items())
        built = self.build.get("compiler") or self.build.get("reason")
        lines = [
            f"lowbit {self.lowbit}, Python {self.python}, {packages}",
            f"build      {built}",
            f"CUDA       {self.build.get('cuda', 'not built')}",
        ]
        if self.instruction_set is not None:
            others = ", ".join(self.instruction_sets)
            lines.append(f"kernels    {self.instruction_set} (this {self.machine} machine has {others})")
            if self.refused is not None:
                lines.append(f"           not {self.instruction_sets[-1]}: {self.refused}")
            lines.append(f"threads    {self.threads}")
        lines.append(f"GPUs       {', '.join(self.gpus) or 'none that torch finds'}")
        if self.driver is not None:
            lines.append(f"driver     serves CUDA up to {self.driver}")
        if self.forced is not None:
            lines.append(f"forced     {self.forced} ({backends.ENVIRONMENT})")
        lines.append("backends, in the order they are tried:")
        for name, (ok, reason) in self.backends.items():
            lines.append(f"  {name:<8} {'yes' if ok else 'no '}  {reason}")
        return "\n".join(lines)


def info() -> Info:
    """What this installation can do on this machine; print it, or take `to_dict()`."""
    instruction_sets, instruction_set, refused, threads = _native()
    return Info(
        lowbit=lowbit.__version__,
        python=platform.python_version(),
        packages={name: _version(name) for name in _PACKAGES},
        machine=platform.machine(),
        build=build_record(),
        instruction_sets=instruction_sets,
        instruction_set=instruction_set,
        refused=refused,
        threads=threads,
        gpus=_gpus(),
        driver=_driver(),
        backends=backends.availability(),
        forced=backends.forced_name(),
    )


def _gpus() -> tuple[str, ...]:
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found.append(f"{torch.cuda.get_device_name(index)} (compute capability {major}.{minor})")
    return tuple(found)


def _driver() -> str | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    version: int = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    return f"{version // 1000}.{version % 1000 // 10}"


def _native() -> tuple[tuple[str, ...], str | None, str | None, int | None]:
    """Instruction sets, the one in use, why not the best, and the number of threads of the native kernels."""
    try:
        from lowbit import _native as native
    except ImportError:
        return (), None, None, None
    return (
        tuple(native.available_isas()),
        native.current_isa(),
        native.isa_refusal(),
        native.num_threads(),
    )


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
