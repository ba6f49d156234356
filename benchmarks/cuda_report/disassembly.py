"""Functions of the library's cubins, as cuobjdump prints them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_ARCHITECTURE = re.compile(r"^arch = sm_(\d+)")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:(@\S+)\s+)?(\S+)\s*(.*?)\s*;")
_RESOURCES = re.compile(r"^ Function (\S+):")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
# nvcc's name of an anonymous namespace: a hash, the length of the file's name and that name.
_ANONYMOUS = re.compile(r"_GLOBAL__N__[0-9a-f]{8}_\d+_(\w+?)_cu_[0-9a-f]{8}")


INSTRUCTION_BYTES = 16


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # "@!P0", or ""
    opcode: str  # with all its modifiers: "LDG.E.NA.LTC128B.128.CONSTANT"
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch or call goes."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands) if self.name in ("BRA", "CALL") else None
        return int(found[1], 16) if found else None

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may follow: not behind a branch or an end without a predicate."""
        uniform = self.operands.startswith(("UP", "!UP", "UR", "P", "!P"))  # BRA.U UP0, 0x1b0
        return self.name not in ("BRA", "BRX", "EXIT", "RET") or bool(self.predicate) or uniform


@dataclass
class Function:
    name: str  # without parameters; kernels local to a file as "gemm::gemm_kernel<(Flush)0>"
    target: int  # 80, 90, ...
    instructions: list[Instruction]
    registers: int
    shared: int  # static, in bytes
    stack: int  # stack frame and local memory, in bytes: spills


def tool(name: str) -> str:
    """cuobjdump or nvdisasm: the pip package beside this interpreter, else the one on PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    packaged = sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob(f"cu*/bin/{name}"))
    found = str(packaged[-1]) if packaged else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: pip install nvidia-cuda-{name}")
    return found


def functions(library: Path, wanted: Callable[[str], bool]) -> list[Function]:
    """Every kernel of every cubin in `library`, by name and target.

    Only those whose name is `wanted` have instructions: disassembling all of a large library takes a minute.
    """
    found: dict[tuple[int, str], Function] = {}
    target, mangled = 0, ""
    for line in _cuobjdump(library, "--dump-resource-usage"):
        if header := _ARCHITECTURE.match(line):
            target = int(header[1])
        elif header := _RESOURCES.match(line):
            mangled = header[1]
        elif usage := _USAGE.search(line):
            registers, stack, shared, local = map(int, usage.groups())
            found[target, mangled] = Function(mangled, target, [], registers, shared, stack + local)
    names = _demangle([mangled for _, mangled in found])
    for function, name in zip(found.values(), names, strict=True):
        function.name = name
    targets: dict[int, list[str]] = {}
    for (target, mangled), function in found.items():
        if wanted(function.name):
            targets.setdefault(target, []).append(mangled)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for target, bodies in zip(
            targets, pool.map(lambda target: _bodies(library, target, targets[target]), targets), strict=True
        ):
            for mangled, body in bodies.items():
                found[target, mangled].instructions = body
    return sorted(found.values(), key=lambda function: (function.name, function.target))


def only_kernel(cubin: Path, target: int) -> Function:
    """The kernel of a file that has one, compiled for `target`."""
    ((name, body),) = _parse(_cuobjdump(cubin, "-sass")).items()
    (usage,) = filter(None, map(_USAGE.search, _cuobjdump(cubin, "--dump-resource-usage")))
    registers, stack, shared, local = map(int, usage.groups())
    return Function(name, target, body, registers, shared, stack + local)


def _bodies(library: Path, target: int, mangled: list[str]) -> dict[str, list[Instruction]]:
    """Instructions by mangled name."""
    return _parse(_cuobjdump(library, "-sass", "-arch", f"sm_{target}", "-fun", ",".join(mangled)))


def _parse(lines: Iterator[str]) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in lines:
        if "/*" not in line[:12]:
            if header := _FUNCTION.match(line):
                body = found[header[1]] = []
        elif parts := _INSTRUCTION.match(line):
            address, predicate, opcode, operands = parts.groups()
            body.append(Instruction(int(address, 16), predicate or "", opcode, operands))
    return found


def _cuobjdump(library: Path, *options: str) -> Iterator[str]:
    """The lines that it prints, as they come."""
    # It calls nvdisasm, which it looks for on PATH.
    path = os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ.get("PATH", "")])
    with subprocess.Popen(
        [tool("cuobjdump"), *options, str(library)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a complaint for every function that a cubin does not have
        text=True,
        env={**os.environ, "PATH": path},
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode != 0:
        raise RuntimeError(f"cuobjdump {' '.join(options[:3])} failed on {library}")


def _demangle(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [_short(name, mangled) for name, mangled in zip(done.stdout.splitlines(), names, strict=True)]


def _short(name: str, mangled: str) -> str:
    """Without parameters and the common namespace; files instead of anonymous namespaces."""
    file = _ANONYMOUS.search(mangled)
    name = name.replace("(anonymous namespace)", file[1] if file else "").replace("lowbit::cuda::", "")
    depth = 0
    for position, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:position].removeprefix("void ")
    return name
