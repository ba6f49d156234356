"""Which kernel a codebook's product would run, and why not the other one; the launches that it makes."""

from __future__ import annotations

import ctypes
import itertools
import json
from typing import Any

import pytest
import torch
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS

from tests.cuda.bits import last_error
from tests.cuda.codebook import DTYPE_CODES, DeviceLayer
from tests.cuda.test_plan import GPUS, SHAPES
from tests.emulated.device import Device, DeviceError, load
from tests.ops import cases

SOME_ADDRESS = 256  # a choice looks at no memory
KERNELS = {
    "scalar": {"selectors", "fp32", "matmul"},
    "vector": {"tensor", "fp32", "matmul"},
    "channel": {"gather", "label_sums"},
}
SHARED_KB = {"A100": 163, "A10": 99, "RTX 4090": 99, "H100": 227, "B200": 227, "RTX 5090": 99}


@pytest.fixture
def device() -> Device:
    return load("lowbit_emulated")


def scalar(shape: tuple[int, int], bits: int = 3) -> interface.Scalar:
    return interface.Scalar(*shape, bits, tables=SOME_ADDRESS, tables_dtype=1)


def vector(shape: tuple[int, int], books: int = 2, size: int = 8) -> interface.Vector:
    return interface.Vector(*shape, books, size, dtype=1)


def channel(shape: tuple[int, int], axis: int = 0, rank: int = 64) -> interface.Channel:
    layer = interface.Channel(*shape, axis, 256, SOME_ADDRESS, SOME_ADDRESS, 2, rank, dtype=1)
    layer.low_rank_out = layer.low_rank_in = SOME_ADDRESS
    return layer


def explain(
    device: Device,
    layer: interface.Scalar | interface.Vector | interface.Channel,
    tokens: int = 1,
    precision: str = "high",
    dtype: torch.dtype = torch.float16,
    gpu: interface.Device = GPUS["H100"],
) -> dict[str, Any]:
    kind = {interface.Scalar: "scalar", interface.Vector: "vector", interface.Channel: "channel"}[type(layer)]
    length, text = ctypes.c_size_t(), ctypes.create_string_buffer(4096)
    device.run(
        f"lowbit_cuda_codebook_{kind}_explain", ctypes.byref(gpu), ctypes.byref(layer), tokens,
        PRECISIONS.index(precision), DTYPE_CODES[dtype], text, 4096, ctypes.byref(length),
    )  # fmt: skip
    assert length.value == len(text.value) + 1
    found: dict[str, Any] = json.loads(text.value)
    return found


def against(found: dict[str, Any]) -> str:
    """Why not the other kernel of the package's own."""
    (reason,) = (other["reason"] for other in found["rejected"] if other["kernel"] != "matmul")
    return str(reason)


def against_matmul(found: dict[str, Any]) -> str:
    (reason,) = (other["reason"] for other in found["rejected"] if other["kernel"] == "matmul")
    return str(reason)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_answer_has_its_reasons(device: Device, shape: tuple[int, int], gpu: str) -> None:
    layers = {
        "scalar": [scalar(shape, bits) for bits in range(1, 9)],
        "vector": [vector(shape, books, size) for books in (1, 2, 32) for size in (4, 5, 8)],
        "channel": [channel(shape, axis) for axis in (0, 1)],
    }
    for kind, precision, tokens in itertools.product(layers, PRECISIONS, (1, 8, 17, 512)):
        for layer in layers[kind]:
            found = explain(device, layer, tokens, precision, gpu=GPUS[gpu])
            assert {found["kernel"], *(other["kernel"] for other in found["rejected"])} == KERNELS[kind]
            assert found["reason"]
            assert against(found)
            assert found["blocks"] >= 1
            assert found["row_warps"] * found["input_warps"] <= 16
            assert found["shared_bytes"] <= SHARED_KB[gpu] << 10


def test_scalar_kernels(device: Device) -> None:
    for bits in range(1, 9):
        found = explain(device, scalar((4096, 4096), bits))
        assert found["kernel"] == ("selectors" if 2 <= bits <= 4 else "fp32")
        assert ("many times the instructions" in against(found)) == (2 <= bits <= 4)
    assert "tables of 4, 8 or 16 entries, not of 32" in against(explain(device, scalar((64, 64), 5)))
    assert "precision exact" in against(explain(device, scalar((64, 64)), precision="exact"))
    longest = 4 * (512 - 1) * 256
    assert explain(device, scalar((16, longest)))["kernel"] == "selectors"
    assert f"{longest + 1} inputs" in against(explain(device, scalar((16, longest + 1))))


def test_scalar_passes(device: Device) -> None:
    for precision, tokens, columns, passes in (
        ("high", 4, 8, 1),
        ("high", 5, 10, 1),
        ("high", 17, 34, 2),
        ("fast", 16, 16, 1),
        ("fast", 17, 17, 2),
        ("exact", 9, 9, 2),
    ):
        found = explain(device, scalar((128, 1024)), tokens, precision)
        assert (found["columns"], found["passes"]) == (columns, passes)
        assert found["bytes"]["weight"] == 128 * 1024 * 3 // 8 * passes


def test_matmul(device: Device) -> None:
    """For many tokens, where nothing forbids fp16 and the caller lends its product."""
    lent = interface.Device(90, 132, SOME_ADDRESS)
    for layer in (scalar((4096, 4096)), scalar((4096, 4096), 7), vector((4096, 4096))):
        found = explain(device, layer, 257, gpu=lent)
        assert (found["kernel"], found["columns"], found["passes"]) == ("matmul", 257, 1)
        assert "257 tokens are more than 256" in found["reason"]
        own = explain(device, layer, 257)
        family = KERNELS["scalar" if isinstance(layer, interface.Scalar) else "vector"]
        assert {other["kernel"] for other in found["rejected"]} == family - {"matmul"}
        assert "the caller lends no matrix product" in against_matmul(own)
        assert "no more than 256 tokens" in against_matmul(explain(device, layer, 256, gpu=lent))
        exact = explain(device, layer, 512, "exact", gpu=lent)
        assert exact["kernel"] == "fp32"
        assert "precision exact" in against_matmul(exact)
        turns = explain(device, layer, 3 * 1024 + 9, gpu=lent)
        tiles = -(-4096 // turns["tile_rows"])
        assert turns["launches"] == 3 * (1 + 3 * tiles) + 2
    fast = explain(device, scalar((4096, 4096)), 512, "fast", gpu=lent)
    assert "precision fast" in against_matmul(fast)
    assert explain(device, vector((4096, 4096)), 512, "fast", gpu=lent)["kernel"] == "matmul"
    assert "not of 5" in against_matmul(explain(device, vector((64, 64), 2, 5), 512, gpu=lent))


def test_split_of_a_row_does_not_depend_on_the_tokens(device: Device) -> None:
    for layer in (scalar((4096, 4096)), scalar((640, 2048)), vector((4096, 4096)), vector((130, 777), 3, 5)):
        found = [explain(device, layer, tokens) for tokens in range(1, 17)]
        assert len({(one["input_warps"], one["splits"]) for one in found}) == 1


def test_vector_kernels(device: Device) -> None:
    for size in (1, 4, 5, 8, 16):
        assert explain(device, vector((64, 256), 1, size))["kernel"] == (
            "tensor" if size in (4, 8) else "fp32"
        )
    assert "not of 16" in against(explain(device, vector((64, 256), 1, 16)))
    assert "precision exact" in against(explain(device, vector((64, 256)), precision="exact"))
    # 32 KB of partial sums, and 4 KB for a codebook: as many as fit a block's shared memory.
    for gpu, kilobytes in SHARED_KB.items():
        most = (kilobytes - 32) // 4
        assert explain(device, vector((64, 256), most), gpu=GPUS[gpu])["kernel"] == "tensor"
        refused = explain(device, vector((64, 256), most + 1), gpu=GPUS[gpu])
        assert refused["kernel"] == "fp32"
        assert f"{most + 1} codebooks take {32 + 4 * (most + 1)} KB" in against(refused)
    assert [explain(device, vector((64, 256), books))["copies"] for books in (2, 8, 16)] == [8, 4, 2]


def test_vector_columns(device: Device) -> None:
    """float32 activations are two columns in `high`; sixteen columns are one pass over the codes."""
    for dtype, precision, tokens, columns, passes in (
        (torch.float16, "high", 16, 16, 1),
        (torch.float16, "high", 17, 17, 2),
        (torch.float32, "high", 16, 32, 2),
        (torch.float32, "fast", 16, 16, 1),
        (torch.float32, "exact", 3, 3, 3),
    ):
        found = explain(device, vector((128, 1024)), tokens, precision, dtype)
        assert (found["columns"], found["passes"]) == (columns, passes)
        assert found["bytes"]["weight"] == 128 * 1024 * 2 // 8 * passes


def test_channel_kernels(device: Device) -> None:
    outputs, inputs = (explain(device, channel((1000, 600), axis), 9) for axis in (0, 1))
    assert (outputs["kernel"], inputs["kernel"]) == ("gather", "label_sums")
    assert "labels name the outputs" in against(outputs)
    assert "labels name the inputs" in against(inputs)
    low_rank = 64 * (1000 + 600)
    assert outputs["bytes"]["weight"] == (256 * 600 + low_rank) * 2 * 2  # fp16, two passes
    assert inputs["bytes"]["weight"] == (256 * 1000 + low_rank) * 2 * 2
    assert outputs["bytes"]["workspace"] == 9 * (256 + 64) * 4


def test_launches_are_those_that_run(device: Device) -> None:
    device.library.lowbit_emulated_launches.restype = ctypes.c_uint64
    for kind in ("scalar", "outliers", "vector", "channel0", "channel1"):
        for precision in PRECISIONS:
            layer = DeviceLayer(device, cases.make(kind, 40, 264, 1))
            before = device.library.lowbit_emulated_launches()
            layer.linear(cases.activations(3, 264, torch.float16), precision)
            launches = device.library.lowbit_emulated_launches() - before
            assert explain(device, layer.struct, 3, precision)["launches"] == launches, (kind, precision)


def test_refused(device: Device) -> None:
    for layer, gpu, dtype, message in (
        (scalar((64, 64), 9), GPUS["H100"], 1, "bits is 9; allowed: 1 to 8"),
        (vector((64, 64)), interface.Device(75, 40), 1, "compute capability 7.5"),
        (channel((64, 64), 2), GPUS["H100"], 1, "axis is 2; allowed: 0 to 1"),
        (scalar((64, 64)), GPUS["H100"], 7, "activations"),
    ):
        kind = {interface.Scalar: "scalar", interface.Vector: "vector", interface.Channel: "channel"}[
            type(layer)
        ]
        text, length = ctypes.create_string_buffer(4096), ctypes.c_size_t()
        with pytest.raises(DeviceError):
            device.run(
                f"lowbit_cuda_codebook_{kind}_explain", ctypes.byref(gpu), ctypes.byref(layer), 1, 1, dtype,
                text, 4096, ctypes.byref(length),
            )  # fmt: skip
        assert message in last_error(device)
