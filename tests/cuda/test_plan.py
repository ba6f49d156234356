"""Which kernel a product would run, and why: no kernel runs here, only shapes and GPUs are looked at."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from lowbit.backends import cuda_interface as interface

from tests.cuda.bits import describe, digits_of, explain, last_error
from tests.emulated.device import Device, DeviceError, load

GPUS = {
    "A100": interface.Device(80, 108),
    "A10": interface.Device(86, 72),
    "RTX 4090": interface.Device(89, 128),
    "H100": interface.Device(90, 132),
    "B200": interface.Device(100, 148),
    "RTX 5090": interface.Device(120, 170),
}
# (N, K) of linear layers from 0.3 to 70 billion parameters, and shapes that divide into nothing.
SHAPES = [(640, 640), (2048, 640), (640, 2048), (1024, 4096), (4096, 4096), (14336, 4096), (4096, 14336)]
SHAPES += [(28672, 8192), (8192, 28672), (1, 1), (17, 1025), (131, 4097)]
KERNELS = {"imma_gemv", "b1_gemv", "gemm", "fp32", "matmul"}


@pytest.fixture
def device() -> Device:
    return load("lowbit_emulated")


def plan(
    device: Device,
    shape: tuple[int, int],
    *,
    bits: int = 1,
    digits: str = "packed",
    group_size: int = -1,
    tokens: int = 1,
    precision: str = "high",
    active_bits: int = 0,
    activation_bits: int = 0,
    gpu: str = "H100",
    segments: int = 1,
    matmul: bool = False,
) -> dict[str, Any]:
    info = interface.Device.from_buffer_copy(GPUS[gpu])
    if matmul:
        info.matmul = 1 << 20  # never called
    layer = interface.Signs(describe(*shape, digits_of(bits, digits), group_size))
    if group_size != -1:
        layer.bits.scales = 1 << 20  # a choice looks at no memory, but whether there are scales matters
        layer.bits.scales_dtype = 1
    return explain(
        device,
        (interface.Signs * segments)(*[layer] * segments),
        tokens,
        precision,
        active_bits or bits,
        activation_bits,
        info,
    )


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_answer_has_its_reasons(device: Device, shape: tuple[int, int], gpu: str) -> None:
    for precision in ("fast", "high", "exact"):
        for tokens in (1, 8, 16, 17, 512):
            for group_size in (-1, 128, 32):
                found = plan(
                    device, shape, tokens=tokens, precision=precision, group_size=group_size, gpu=gpu
                )
                assert {found["kernel"], *(other["kernel"] for other in found["rejected"])} == KERNELS
                assert len(found["rejected"]) == len(KERNELS) - 1
                assert found["reason"]
                assert all(other["reason"] for other in found["rejected"])
                assert found["launches"] == 2


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parts_of_a_row_do_not_depend_on_the_tokens(device: Device, shape: tuple[int, int], gpu: str) -> None:
    """Where sums leave the integers inside a row; integer sums are the same whatever their parts."""
    for precision in ("fast", "high"):
        for bits, group_size in ((1, -1), (1, 128), (4, 128), (3, 32)):
            parts = set()
            for tokens in range(1, 17):
                found = plan(
                    device,
                    shape,
                    bits=bits,
                    tokens=tokens,
                    precision=precision,
                    group_size=group_size,
                    gpu=gpu,
                )
                assert found["kernel"] in ("imma_gemv", "b1_gemv")
                parts.add(found["splits"] * found["input_warps"])
                assert 1 <= found["row_warps"] * found["input_warps"] <= 8
                assert found["splits"] * found["input_warps"] <= -(-shape[1] // 1024)
                assert found["shared_bytes"] <= 96 << 10
            if (precision, group_size) != ("high", -1):
                assert len(parts) == 1


def test_rows_share_columns_where_there_are_many(device: Device) -> None:
    """Every block reads all columns of its inputs, so with many of them blocks take more rows, and rather
    leave inputs to others than multiprocessors without work. Bytes through the second-level cache, which it
    delivers 1.7 times as fast as memory (2.2 times on an A100), must not keep memory below 80 %."""
    size = 8192
    for gpu, rate in (("A100", 2.2), ("H100", 1.7)):
        for tokens in (2, 4, 8):
            found = plan(device, (size, size), tokens=tokens, gpu=gpu)
            weight = size * size / 8
            columns = found["blocks"] / found["splits"] * found["columns"] * size
            assert weight + columns <= rate / 0.8 * weight
            assert tokens == 8 or found["splits"] == 1
        assert found["blocks"] >= 0.75 * GPUS[gpu].multiprocessors
    assert found["splits"] > 1


@pytest.mark.parametrize("shape", [(4096, 4096), (14336, 4096), (4096, 14336), (8192, 28672)], ids=str)
@pytest.mark.parametrize("gpu", GPUS)
def test_no_multiprocessor_has_twice_its_share(device: Device, gpu: str, shape: tuple[int, int]) -> None:
    """Of a large layer's rows. That warps are enough to keep memory busy is tested in test_partitions.py."""
    multiprocessors = GPUS[gpu].multiprocessors
    for bits in (1, 2, 4):
        found = plan(device, shape, bits=bits, group_size=128, precision="fast", gpu=gpu)
        rows = found["row_warps"] * 16 / found["splits"]
        assert -(-found["blocks"] // multiprocessors) * rows * multiprocessors <= 2 * shape[0]


def test_one_bit_products(device: Device) -> None:
    """Only where their rate is known, where sums stay integers, and where the weight is read once."""
    assert plan(device, (4096, 4096), gpu="A100")["kernel"] == "b1_gemv"
    assert plan(device, (4096, 4096), gpu="A100", tokens=2)["kernel"] == "imma_gemv"
    for tokens, kernel in ((8, "b1_gemv"), (9, "imma_gemv")):
        found = plan(device, (4096, 4096), gpu="A100", tokens=tokens, precision="exact", activation_bits=1)
        assert found["kernel"] == kernel
    for gpu in set(GPUS) - {"A100"}:
        found = plan(device, (4096, 4096), gpu=gpu, precision="exact", activation_bits=1)
        assert found["kernel"] == "imma_gemv"
        (reason,) = [other["reason"] for other in found["rejected"] if other["kernel"] == "b1_gemv"]
        assert ("unmeasured" if GPUS[gpu].architecture < 100 else "emulated") in reason
    for changes, word in (
        ({"precision": "fast"}, "activations have a scale for every 128"),
        ({"group_size": 128}, "weight has a scale for every 128"),
        ({"group_size": 32}, "weight has a scale for every 32"),
        ({"bits": 4}, "digits of more than one bit"),
        ({"tokens": 3}, "3 tokens of 16 bit planes"),
    ):
        found = plan(device, (4096, 4096), gpu="A100", **changes)
        assert found["kernel"] == "imma_gemv"
        (reason,) = [other["reason"] for other in found["rejected"] if other["kernel"] == "b1_gemv"]
        assert word in reason
    assert plan(device, (64, 64), bits=4, digits="planes", gpu="A100")["kernel"] == "b1_gemv"
    found = plan(device, (64, 64), bits=3, active_bits=2, gpu="A100")  # digits 2 + 1
    assert found["kernel"] == "imma_gemv"


@pytest.mark.parametrize("activation_bits", range(9))
@pytest.mark.parametrize("gpu", ["B200", "RTX 5090"])
def test_never_one_bit_products_on_blackwell(device: Device, gpu: str, activation_bits: int) -> None:
    for tokens in (1, 2, 8, 16):
        found = plan(device, (4096, 4096), gpu=gpu, tokens=tokens, activation_bits=activation_bits)
        assert found["kernel"] == "imma_gemv"


def test_columns_and_passes(device: Device) -> None:
    for precision, tokens, columns, passes in (
        ("fast", 1, 1, 1),
        ("fast", 16, 16, 1),
        ("high", 8, 16, 1),
        ("high", 9, 18, 2),
        ("fast", 64, 64, 1),
        ("high", 64, 128, 2),
        ("exact", 3, 3, 1),
    ):
        found = plan(device, (128, 1024), tokens=tokens, precision=precision)
        assert (found["columns"], found["passes"]) == (columns, passes)
        assert found["bytes"]["weight"] == 128 * 1024 // 8 * passes


def test_passes_of_eight_columns(device: Device) -> None:
    """Where sixteen would not fit the registers."""
    for tokens, passes in ((8, 1), (16, 2)):
        assert plan(device, (128, 1024), tokens=tokens, precision="fast", group_size=32)["passes"] == passes


def test_many_tokens_take_turns(device: Device) -> None:
    one = plan(device, (128, 1024), tokens=4096)
    more = plan(device, (128, 1024), tokens=10000)
    assert (one["launches"], more["launches"]) == (2, 6)
    assert one["bytes"]["workspace"] == more["bytes"]["workspace"]
    none = plan(device, (128, 1024), tokens=0)
    assert (none["launches"], none["bytes"]["workspace"]) == (0, 0)


def why_not(found: dict[str, Any], kernel: str) -> str:
    (reason,) = [other["reason"] for other in found["rejected"] if other["kernel"] == kernel]
    return str(reason)


def test_products_of_the_caller(device: Device) -> None:
    """Only for more than 256 tokens at `high`, where there is one."""
    found = plan(device, (4096, 4096), tokens=257, matmul=True)
    assert found["kernel"] == "matmul"
    assert "257 tokens are more than 256" in found["reason"]
    assert f"{found['tile_rows']} rows of the weight at a time" in found["reason"]
    assert "expanded once for every 64 columns" in why_not(found, "gemm")
    for kernel, changes, word in (
        ("gemm", {"tokens": 256, "matmul": True}, "256 tokens are not more than 256"),
        ("gemm", {"tokens": 257}, "the caller lends no matrix product"),
        ("gemm", {"tokens": 257, "matmul": True, "precision": "fast"}, "products stay integers"),
        ("gemm", {"tokens": 257, "matmul": True, "activation_bits": 8}, "products stay integers"),
        ("fp32", {"tokens": 257, "matmul": True, "precision": "exact"}, "must not be rounded"),
        ("imma_gemv", {"tokens": 16, "matmul": True}, "16 tokens are not more than 256"),
    ):
        found = plan(device, (4096, 4096), gpu="H100", **changes)
        assert found["kernel"] == kernel
        assert word in why_not(found, "matmul")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_of_rows(device: Device, shape: tuple[int, int], gpu: str) -> None:
    """In bounded memory, and enough of the product in a tile to fill the GPU, where there is enough."""
    n, k = shape
    for tokens in (257, 512, 4096, 10000):
        found = plan(device, shape, bits=4, group_size=128, tokens=tokens, gpu=gpu, matmul=True)
        rows, turn = found["tile_rows"], min(tokens, 4096)
        wide = -(-k // 64) * 64
        assert rows % 16 == 0
        assert rows * wide * 2 <= 64 << 20
        small = 4 * (turn * (2 + rows) + rows) + turn * wide * 2 + (1 << 11)
        assert found["bytes"]["workspace"] <= rows * wide * 2 + small
        tiles = -(-rows // 128) * -(-turn // 128)
        assert tiles >= 2 * GPUS[gpu].multiprocessors or rows >= n or (rows + 128) * wide * 2 > 64 << 20
        turns = -(-tokens // 4096)
        assert found["launches"] == turns * (1 + 3 * -(-n // rows))
        assert found["passes"] == turns
    fused = plan(device, shape, tokens=512, segments=3, gpu=gpu, matmul=True)
    assert fused["launches"] == 1 + 9 * -(-n // fused["tile_rows"])


def test_bytes(device: Device) -> None:
    found = plan(device, (160, 2048), bits=4, group_size=128)
    assert found["bytes"]["weight"] == 160 * 2048 // 2
    assert found["bytes"]["scales"] == 160 * 2048 // 128 * 2
    half = plan(device, (160, 2048), bits=4, digits="planes", active_bits=2, group_size=128)
    assert half["bytes"]["weight"] == 160 * 2048 // 4


@pytest.mark.parametrize("architecture", [75, 70, 0])
def test_older_gpus_are_refused(device: Device, architecture: int) -> None:
    layer = interface.Signs(describe(64, 64))
    with pytest.raises(DeviceError):
        explain(device, (interface.Signs * 1)(layer), 1, "high", gpu=interface.Device(architecture, 40))
    version = f"{architecture // 10}.{architecture % 10}"
    assert f"compute capability {version}; the CUDA kernels need 8.0 or newer" in last_error(device)


def test_text_too_long_for_the_buffer(device: Device) -> None:
    layer = (interface.Signs * 1)(interface.Signs(describe(64, 64)))
    length = ctypes.c_size_t()
    text = ctypes.create_string_buffer(b"untouched", 16)
    arguments = (ctypes.byref(GPUS["H100"]), layer, 1, 1, ctypes.c_int64(1), 0, 1, text)
    entry = device.library.lowbit_cuda_explain
    assert entry(*arguments, ctypes.c_size_t(16), ctypes.byref(length)) != 0
    assert text.value == b"untouched"
    assert f"room for 16 bytes; allowed: {length.value} or more" in last_error(device)
    text = ctypes.create_string_buffer(length.value)
    assert entry(*arguments[:-1], text, length, ctypes.byref(length)) == 0


def test_devices(device: Device) -> None:
    count, info = ctypes.c_int32(), interface.Device()
    device.run("lowbit_cuda_device_count", ctypes.byref(count))
    assert count.value == 1
    device.run("lowbit_cuda_get_device", 0, ctypes.byref(info))
    assert (info.architecture, info.multiprocessors) == (90, 132)
    with pytest.raises(DeviceError):
        device.run("lowbit_cuda_get_device", 1, ctypes.byref(info))
    assert last_error(device) == "ordinal is 1; allowed: 0 to 0"
