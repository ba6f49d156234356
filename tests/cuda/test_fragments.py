"""The tensor-core wrappers on a real GPU against the emulated device: random registers, equal sums."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from tests.emulated.device import load

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = 64
KINDS = {"u8s8": 0, "s8s8": 1, "b1_and": 2, "f16": 3, "bf16": 4}  # tests/emulated/products.cu

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """tests/emulated/products.cu for this GPU."""
    packaged = sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/bin/nvcc"))
    nvcc = str(packaged[-1]) if packaged else shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    library = tmp_path_factory.mktemp("fragments") / "libproducts.so"
    major, minor = torch.cuda.get_device_capability()
    sources = [ROOT / "tests" / "emulated" / "products.cu", ROOT / "csrc" / "core" / "error.cpp"]
    includes = [f"-I{ROOT / folder}" for folder in ("csrc", "csrc/include", "tests/emulated")]
    paths = [f"-L{Path(nvcc).parents[1] / 'lib'}"]
    options = ["-std=c++20", "-shared", "-Xcompiler=-fPIC", f"-arch=sm_{major}{minor}"]
    subprocess.run([nvcc, *options, *includes, *paths, *map(str, sources), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def random_registers(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    """int32 [BLOCKS, 32, count]; floating point values are small integers, whose sums are exact."""
    if kind in ("f16", "bf16"):
        dtype = torch.float16 if kind == "f16" else torch.bfloat16
        values = torch.randint(-8, 9, (BLOCKS, 32, count, 2), generator=generator).to(dtype)
        return values.view(torch.int32).squeeze(-1)
    low, high = -(2**31), 2**31
    return torch.randint(low, high, (BLOCKS, 32, count), generator=generator, dtype=torch.int64).to(
        torch.int32
    )


@pytest.mark.parametrize("kind", KINDS)
def test_registers_are_where_the_emulation_has_them(kind: str, compiled: ctypes.CDLL) -> None:
    if kind == "b1_and" and torch.cuda.get_device_capability() >= (10, 0):
        pytest.skip("not used from compute capability 10.0 on")
    rng = torch.Generator().manual_seed(KINDS[kind])
    a, b = random_registers(kind, 4, rng), random_registers(kind, 2, rng)
    c = torch.zeros(BLOCKS, 32, 4, dtype=torch.int32)
    device = load("emulated_tests")
    sums = device.array(c)
    device.run("test_raw_mma", device.array(a), device.array(b), sums, BLOCKS, KINDS[kind])

    on_gpu = [tensor.cuda() for tensor in (a, b, c)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in on_gpu]
    assert compiled.test_raw_mma(*pointers, ctypes.c_int64(BLOCKS), ctypes.c_int64(KINDS[kind])) == 0
    torch.cuda.synchronize()
    assert torch.equal(on_gpu[2].cpu(), sums.tensor())
