"""Tensor-core products of the emulated device: where a lane's registers belong, matrix products made of them.

The maps are compared with CuTe's, which cute_maps.cpp prints: an independent source, as the emulation and the
wrappers' comments were written from the PTX manual.
"""

from __future__ import annotations

import functools
import subprocess

import numpy as np
import pytest

from tests.emulated.device import BUILD, Device, DeviceError

Map = np.ndarray  # [lanes][values]: element of the operand, in cute_maps.cpp's order

# Number in the test kernel's switch, bits of a value, inputs.
MMA = {
    "mma_u8s8": (0, 8, 32),
    "mma_s8s8": (1, 8, 32),
    "mma_b1_and": (2, 1, 256),
    "mma_f16": (3, 16, 16),
    "mma_bf16": (4, 16, 16),
}
ONE = {"mma_f16": 0x3C00, "mma_bf16": 0x3F80}  # the bits of 1.0; 1 elsewhere


@functools.cache
def cute_maps() -> dict[tuple[str, str], Map]:
    program = BUILD / "cute_maps"
    if not program.exists():
        pytest.skip(f"{program} was not built: it needs the package nvidia-cutlass (make build prepares it)")
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    maps = {}
    for line in lines:
        instruction, operand, lanes, values, *elements = line.split()
        maps[instruction, operand] = np.array(elements, int).reshape(int(lanes), int(values))
    return maps


def registers(values: np.ndarray, bits: int) -> np.ndarray:
    """[.., values] small integers -> [.., registers] uint32, the first value in the lowest bits."""
    per_register = 32 // bits
    grouped = values.astype(np.uint64).reshape(*values.shape[:-1], -1, per_register)
    return (grouped << np.arange(0, 32, bits, dtype=np.uint64)).sum(-1).astype(np.uint32)


def run_mma(device: Device, name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Values of [blocks][lanes] registers, as bit patterns -> sums [blocks][16 rows][8 columns]."""
    number, bits, _ = MMA[name]
    sums = device.array(c.view(np.uint32))
    device.run(
        "test_raw_mma",
        device.array(registers(a, bits)),
        device.array(registers(b, bits)),
        sums,
        len(a),
        number,
    )
    result = sums.numpy().view(c.dtype)
    matrix = np.zeros((len(a), 128), c.dtype)
    matrix[:, cute_maps()[name, "c"]] = result
    return matrix.reshape(len(a), 8, 16).transpose(0, 2, 1)


def sums(name: str, blocks: int) -> np.ndarray:
    return np.zeros((blocks, 32, 4), np.float32 if name in ONE else np.int32)


def small(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values that every format holds: 0 and 1 as bits, else 0..7."""
    return np.random.default_rng(0).integers(0, 2 if name == "mma_b1_and" else 8, shape)


def patterns(name: str, values: np.ndarray) -> np.ndarray:
    """Bit patterns of small integers in the format of an instruction's inputs."""
    if name == "mma_f16":
        return values.astype(np.float16).view(np.uint16)
    if name == "mma_bf16":
        return values.astype(np.float32).view(np.uint32) >> 16
    return values


@pytest.mark.parametrize("name", MMA)
def test_every_register_of_a(planted: Device, name: str) -> None:
    """Block i has a 1 in value i of a, and nothing else: row m of the product is row k of b."""
    _, _, inputs = MMA[name]
    place = cute_maps()[name, "a"]
    blocks = place.size
    a = np.zeros((blocks, 32, place.shape[1]), int)
    a.reshape(blocks, -1)[np.arange(blocks), np.arange(blocks)] = ONE.get(name, 1)
    values = small(name, cute_maps()[name, "b"].shape)
    b = np.zeros(8 * inputs, int)
    b[cute_maps()[name, "b"]] = values
    b = b.reshape(inputs, 8)
    product = run_mma(
        planted, name, a, np.broadcast_to(patterns(name, values), (blocks, *values.shape)), sums(name, blocks)
    )
    m, k = place.reshape(-1) % 16, place.reshape(-1) // 16
    expected = np.zeros_like(product)
    expected[np.arange(blocks), m] = b[k]
    assert np.array_equal(product, expected)


@pytest.mark.parametrize("name", MMA)
def test_every_register_of_b(planted: Device, name: str) -> None:
    """Block i has a 1 in value i of b, and nothing else: column n of the product is column k of a."""
    _, _, inputs = MMA[name]
    place = cute_maps()[name, "b"]
    blocks = place.size
    b = np.zeros((blocks, 32, place.shape[1]), int)
    b.reshape(blocks, -1)[np.arange(blocks), np.arange(blocks)] = ONE.get(name, 1)
    values = small(name, cute_maps()[name, "a"].shape)
    a = np.zeros(16 * inputs, int)
    a[cute_maps()[name, "a"]] = values
    a = a.reshape(inputs, 16)
    product = run_mma(
        planted, name, np.broadcast_to(patterns(name, values), (blocks, *values.shape)), b, sums(name, blocks)
    )
    n, k = place.reshape(-1) % 8, place.reshape(-1) // 8
    expected = np.zeros_like(product)
    expected[np.arange(blocks), :, n] = a[k]
    assert np.array_equal(product, expected)


@pytest.mark.parametrize(("name", "a_type"), [("mma_u8s8", np.uint8), ("mma_s8s8", np.int8)])
def test_sums_of_bytes_are_exact_and_wrap(planted: Device, name: str, a_type: type) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (50, 32, 16)), rng.integers(0, 256, (50, 32, 8))
    a[0], b[0] = 255, 128
    c = rng.integers(-(1 << 31), 1 << 31, (50, 32, 4)).astype(np.int32)
    dense = {
        "a": np.zeros((50, 512), np.int64),
        "b": np.zeros((50, 256), np.int64),
        "c": np.zeros((50, 128), np.int64),
    }
    for operand, values in (("a", a.astype(a_type)), ("b", b.astype(np.int8)), ("c", c)):
        dense[operand][:, cute_maps()[name, operand]] = values
    left = dense["a"].reshape(50, 32, 16).transpose(0, 2, 1)
    exact = left @ dense["b"].reshape(50, 32, 8) + dense["c"].reshape(50, 8, 16).transpose(0, 2, 1)
    assert np.array_equal(run_mma(planted, name, a, b, c), exact.astype(np.int32))


@pytest.mark.parametrize("name", ["ldmatrix_x4", "ldmatrix_x4_trans"])
def test_every_bit_of_ldmatrix(planted: Device, name: str) -> None:
    rows = np.random.default_rng(0).integers(0, 256, 512).astype(np.uint8)
    y = planted.empty((2, 32, 4), np.uint32)
    planted.run("test_raw_ldmatrix", planted.array(rows), y)
    got = np.unpackbits(y.numpy()[int(name.endswith("trans"))].view(np.uint8), bitorder="little")
    assert np.array_equal(cute_maps()[name, "source"].reshape(-1), np.arange(4096))  # lane l points at row l
    expected = np.unpackbits(rows, bitorder="little")[cute_maps()[name, "destination"]]
    assert np.array_equal(got.reshape(32, 128), expected)


def test_separate_sums_leave_their_start(planted: Device) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 32, (32, 4), np.uint32) & 0x7F7F7F7F  # the same as u8 and as s8
    b = rng.integers(0, 1 << 32, (32, 2), np.uint32)
    out = planted.empty((32, 12), np.int32)
    planted.run("test_separate_sums", planted.array(a), planted.array(b), out)
    d, e, c = np.split(out.numpy(), 3, axis=1)
    assert np.array_equal(c, np.tile([1, 10, 100, 1000], (32, 1)))
    assert np.array_equal(d, e)
    start = planted.array(np.tile(np.array([1, 10, 100, 1000], np.uint32), (32, 1)))
    planted.run("test_raw_mma", planted.array(a), planted.array(b), start, 1, 0)
    assert np.array_equal(start.numpy().view(np.int32), d)


NONE, SWAPPED_A, SWAPPED_B, SWAPPED_C, TRANSPOSED_B = range(5)


@pytest.mark.parametrize("bug", [NONE, SWAPPED_A, SWAPPED_B, SWAPPED_C])
def test_matrix_product_of_bytes(planted: Device, bug: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (16, 96)).astype(np.uint8), rng.integers(-128, 128, (8, 96)).astype(np.int8)
    c = planted.empty((16, 8), np.int32)
    planted.run("test_matmul_bytes", planted.array(a), planted.array(b), c, 96, bug)
    assert np.array_equal(c.numpy(), a.astype(int) @ b.astype(int).T) == (bug == NONE)


@pytest.mark.parametrize("bug", [NONE, TRANSPOSED_B])
def test_matrix_product_of_halves(planted: Device, bug: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 8, shape).astype(np.float16) for shape in ((16, 48), (48, 8)))
    c = planted.empty((16, 8), np.float32)
    planted.run("test_matmul_halves", planted.array(a), planted.array(b), c, 48, bug)
    assert np.array_equal(c.numpy(), a.astype(np.float32) @ b.astype(np.float32)) == (bug == NONE)


@pytest.mark.parametrize(
    ("threads", "bug", "report"),
    [
        (
            32,
            1,
            "deadlock in block .* threads 16-31 exited|calls mma_u8s8 .* whose lane 16 has exited",
        ),
        (32, 2, r"calls mma_[us]8s8 .* but lane \d+ waits for it at mma_[us]8s8"),
        (40, 0, "calls mma_u8s8 in a warp of 8 threads; it takes 32"),
    ],
)
def test_products_take_whole_warps(planted: Device, threads: int, bug: int, report: str) -> None:
    with pytest.raises(DeviceError, match=report):
        planted.run("test_divergent_mma", planted.empty(64, np.int32), threads, bug)
