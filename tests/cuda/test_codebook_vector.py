"""Vector codebooks on the emulated device against fp64.

v = 4 and 8 in `fast` and `high` are fp16 tensor-core products there, of x in one fp16 number (`fast`, or x of
16 bits) or two, and of codebooks rounded to fp16; all else is fp32.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit.formats import CodebookVector
from torch import Tensor

from tests.cuda.codebook import DeviceLayer, assert_close, same_bits
from tests.emulated.device import Device, DeviceError
from tests.ops.cases import DTYPES, Layer, activations


def layer_of(
    n: int, k: int, size: int = 8, books: int = 2, dtype: torch.dtype = torch.float16, bias: bool = True
) -> Layer:
    rng = torch.Generator().manual_seed(n + k + size)
    codes = torch.randint(256, (books, n, -(-k // size)), generator=rng).to(torch.uint8)
    codebooks = torch.randn(books, 256, size, generator=rng).to(dtype)
    scales = (torch.rand(n, generator=rng) + 0.5).to(dtype)
    packed = CodebookVector(codes, codebooks, scales, k)
    return Layer(packed, torch.randn(n, generator=rng).to(dtype) if bias else None)


def check(layer: Layer, x: Tensor, y: Tensor, precision: str) -> None:
    """fp16 holds x and codebooks of 16 bits as they are: then the bound is that of fp32 sums."""
    packed = layer.packed
    assert isinstance(packed, CodebookVector)
    bias = 0.0 if layer.bias is None else layer.bias.double()
    reference = x.double() @ packed.dequantize().double().T + bias
    exact = packed.codebooks.dtype != torch.float32 and (x.dtype != torch.float32 or precision == "high")
    tensor = precision != "exact" and packed.vector_size in (4, 8)
    assert_close(y, reference, (1e-3 if tensor and not exact else 1e-5) * layer.norms(x))


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("size", [4, 8, 1, 3, 16, 64])
@pytest.mark.parametrize("books", [1, 2, 3])
def test_sizes(emulated: Device, size: int, books: int, precision: str) -> None:
    layer = layer_of(37, 515, size, books)
    x = activations(2, 515, torch.float32, seed=size)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, precision), precision)


@pytest.mark.parametrize("precision", ["high", "exact"])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (1, 129), (2, 3), (15, 31), (16, 32), (33, 257), (65, 1031), (131, 97)]
)
def test_shapes(emulated: Device, n: int, k: int, precision: str) -> None:
    for size in (4, 8):
        layer = layer_of(n, k, size)
        x = activations(2, k, torch.float16, seed=k)
        check(layer, x, DeviceLayer(emulated, layer).linear(x, precision, apart=3), precision)


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("size", [4, 8])
def test_tokens(emulated: Device, size: int, precision: str) -> None:
    """Any number of tokens, and the same bits for a token whatever comes with it."""
    layer = layer_of(40, 260, size)
    on_device = DeviceLayer(emulated, layer)
    x = activations(33, 260, torch.float32)
    whole = on_device.linear(x, precision)
    check(layer, x, whole, precision)
    for m in (0, 1, 2, 8, 9, 16, 17):
        assert same_bits(on_device.linear(x[33 - m :], precision), whole[33 - m :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_dtypes(emulated: Device, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    layer = layer_of(24, 100, dtype=weight_dtype)
    x = activations(2, 100, dtype)
    on_device = DeviceLayer(emulated, layer)
    for precision in ("fast", "high", "exact"):
        check(layer, x, on_device.linear(x, precision), precision)


@pytest.mark.parametrize("multiprocessors", [1, 2, 100])
def test_rows_walked_by_a_block(emulated: Device, multiprocessors: int) -> None:
    """However many turns a block takes; the tensor form does not notice."""
    layer = layer_of(300, 520)
    on_device = DeviceLayer(emulated, layer)
    x = activations(3, 520, torch.float16)
    for precision in ("high", "exact"):
        check(layer, x, on_device.linear(x, precision, multiprocessors), precision)
    assert same_bits(on_device.linear(x, "high", multiprocessors), on_device.linear(x, "high", 7))


def test_many_inputs(emulated: Device) -> None:
    """All warps of a block share the inputs."""
    layer = layer_of(18, 4100, books=1)
    x = activations(1, 4100, torch.float32)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, "high"), "high")


@pytest.mark.parametrize(
    ("architecture", "kib"), [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)]
)
@pytest.mark.parametrize("books", [2, 4, 8])
def test_shared_memory_of_an_architecture(emulated: Device, architecture: int, kib: int, books: int) -> None:
    """Fewer copies of the codebooks where there is less room; the same bits."""
    layer = layer_of(20, 70, books=books)
    on_device = DeviceLayer(emulated, layer)
    x = activations(2, 70, torch.float16)
    emulated.set_shared_limit(kib)
    y = on_device.linear(x, "high", architecture=architecture)
    check(layer, x, y, "high")
    emulated.set_shared_limit()
    assert same_bits(y, on_device.linear(x, "high", architecture=90))


def test_wide_range(emulated: Device) -> None:
    """Powers of two take tiny and huge values into the range of fp16 and back."""
    layer = layer_of(20, 64, dtype=torch.bfloat16, bias=False)
    packed = layer.packed
    assert isinstance(packed, CodebookVector)
    for factor in (2.0**-60, 2.0**60):
        tiny = Layer(replace(packed, codebooks=packed.codebooks * factor), None)
        x = activations(2, 64, torch.float32)
        x[1] *= 2.0**-50
        check(tiny, x, DeviceLayer(emulated, tiny).linear(x, "high"), "high")
    x[0] = 0.0
    assert bool((DeviceLayer(emulated, tiny).linear(x, "high")[0] == 0).all())


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_not_finite(emulated: Device, precision: str) -> None:
    layer = layer_of(21, 90)
    on_device = DeviceLayer(emulated, layer)
    x = activations(4, 90, torch.float32)
    clean = on_device.linear(x, precision)
    x[1, 89], x[2, 0] = torch.nan, -torch.inf
    y = on_device.linear(x, precision)
    assert bool(y[1:3].isnan().all())
    assert same_bits(y[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("size", [1, 4, 8, 13])
def test_restore(emulated: Device, size: int) -> None:
    layer = layer_of(35, 200, size, 3)
    assert torch.equal(DeviceLayer(emulated, layer).restored(), layer.packed.tensors()["weight"])


def test_refuses(emulated: Device) -> None:
    on_device = DeviceLayer(emulated, layer_of(4, 8))
    on_device.struct.vector_size = 65
    with pytest.raises(DeviceError, match="vector_size is 65; allowed: 1 to 64"):
        on_device.linear(torch.zeros(1, 8), "fast")
