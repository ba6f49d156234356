"""Scalar codebooks on the emulated device against fp64.

Tables of 2 to 4 bits in `fast` and `high` are in fixed point, t = 255 t1 + t0, |t| <= 32256: their error,
at most amax / 64512 of a row, is compared with its bound apart from the products.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit.formats import CodebookScalar, prepare_activations
from lowbit.formats.bits import unpack_codes
from torch import Tensor

from tests.cuda.codebook import DeviceLayer, assert_close, same_bits
from tests.emulated.device import Device, DeviceError
from tests.ops.cases import DTYPES, Layer, activations, make

SELECTOR_BITS = (2, 3, 4)


def fixed_point(tables: Tensor) -> Tensor:
    """The tables as the integer kernels see them, fp64."""
    values = tables.float()
    amax = values.abs().amax(dim=1, keepdim=True)
    codes = (values * (torch.full_like(amax, 32256) / amax)).round()
    return codes.double() * (amax / 32256).double()


def dense(packed: CodebookScalar, tables: Tensor) -> Tensor:
    """W with other tables, fp64."""
    whole = packed.dequantize().double()
    codes = unpack_codes(packed.weight, packed.in_features).long()
    table_values = packed.tables.double().gather(1, codes)
    return whole - table_values + tables.double().gather(1, codes)


def check(layer: Layer, x: Tensor, y: Tensor, precision: str) -> None:
    packed = layer.packed
    assert isinstance(packed, CodebookScalar)
    selectors = precision != "exact" and packed.bits in SELECTOR_BITS
    bias = 0.0 if layer.bias is None else layer.bias.double()
    z = prepare_activations(x, precision).double()
    tables = fixed_point(packed.tables) if selectors else packed.tables.double()
    norms = layer.norms(z)
    assert_close(y, z @ dense(packed, tables).T + bias, 1e-5 * norms)
    largest = packed.tables.double().abs().amax(dim=1)
    table_error = z.abs().sum(dim=1, keepdim=True) * largest / 64512 * 1.001
    assert_close(y, z @ packed.dequantize().double().T + bias, 1e-5 * norms + selectors * table_error)
    if precision == "high":
        assert_close(y, x.double() @ packed.dequantize().double().T + bias, 1e-3 * layer.norms(x))


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(emulated: Device, bits: int, precision: str) -> None:
    layer = make("outliers", 37, 515, seed=bits, bits=bits)
    x = activations(3, 515, torch.float32, seed=bits)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, precision), precision)


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (1, 257), (2, 3), (15, 31), (16, 256), (17, 255), (33, 1031), (5, 2311)]
)
def test_shapes(emulated: Device, n: int, k: int, precision: str) -> None:
    for bits in SELECTOR_BITS:
        layer = make("scalar", n, k, seed=n + k, bits=bits)
        x = activations(2, k, torch.float16, seed=k)
        check(layer, x, DeviceLayer(emulated, layer).linear(x, precision, apart=3), precision)


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("bits", SELECTOR_BITS)
def test_tokens(emulated: Device, bits: int, precision: str) -> None:
    """Any number of tokens, and the same bits for a token whatever comes with it."""
    k = 600
    layer = make("outliers", 20, k, seed=bits, bits=bits)
    on_device = DeviceLayer(emulated, layer)
    x = activations(33, k, torch.float32, seed=bits)
    whole = on_device.linear(x, precision)
    check(layer, x, whole, precision)
    for m in (0, 1, 2, 4, 5, 8, 9, 16, 17):
        assert same_bits(on_device.linear(x[33 - m :], precision), whole[33 - m :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table_dtype", DTYPES)
def test_dtypes(emulated: Device, dtype: torch.dtype, table_dtype: torch.dtype) -> None:
    layer = make("outliers", 19, 300, bits=3, scale_dtype=table_dtype)
    x = activations(2, 300, dtype)
    on_device = DeviceLayer(emulated, layer)
    for precision in ("fast", "high", "exact"):
        check(layer, x, on_device.linear(x, precision), precision)


@pytest.mark.parametrize("multiprocessors", [1, 4, 1000])
def test_warps_of_a_block(emulated: Device, multiprocessors: int) -> None:
    """However many warps share a tile; integers do not notice."""
    layer = make("scalar", 17, 5000, bits=3)
    x = activations(3, 5000, torch.float32)
    on_device = DeviceLayer(emulated, layer)
    for precision in ("fast", "high"):
        check(layer, x, on_device.linear(x, precision, multiprocessors), precision)
    assert same_bits(on_device.linear(x, "high", multiprocessors), on_device.linear(x, "high", 2))


@pytest.mark.parametrize("bits", SELECTOR_BITS)
def test_integers_are_exact(emulated: Device, bits: int) -> None:
    """Tables and activations on the grid: nothing is rounded but the result."""
    n, k = 18, 700
    layer = make("scalar", n, k, bits=bits, scale_dtype=torch.float32, bias=False)
    generator = torch.Generator().manual_seed(bits)
    tables = torch.randint(-32256, 32257, (n, 2**bits), generator=generator).float()
    tables[:, -1] = 32256.0
    packed = replace(layer.packed, tables=tables)
    on_device = DeviceLayer(emulated, Layer(packed, None))
    w = packed.dequantize().double()
    x = torch.randint(-32639, 32640, (3, k), generator=generator).float()
    x[:, 5] = -32639.0
    assert torch.equal(on_device.linear(x, "high"), (x.double() @ w.T).float())
    # `fast` rounds where groups add: here one group has all of it.
    x = torch.randint(-127, 128, (3, k), generator=generator).float()
    x[:, ::50] = 127.0
    x[0, 128:], x[1, :128], x[1, 256:], x[2, :640] = 0.0, 0.0, 0.0, 0.0
    assert torch.equal(on_device.linear(x, "fast"), (x.double() @ w.T).float())


def test_every_pair_of_table_halves(emulated: Device) -> None:
    """4 bits: bytes that are stored corrected for the sign of their partner, of all signs and edges."""
    edges = [-128, -127, -2, -1, 0, 1, 2, 125, 126]
    pairs = torch.tensor([(a, b) for a in edges for b in edges], dtype=torch.float32)
    n, k = len(pairs), 16
    tables = torch.zeros(n, 16)
    tables[:, 0], tables[:, 8] = pairs[:, 0], pairs[:, 1]
    tables[:, 1], tables[:, 9] = 255 * pairs[:, 0].clamp(min=-126), 255 * pairs[:, 1].clamp(min=-126)
    tables[:, 7] = 32256.0
    layer = make("scalar", n, k, bits=4, bias=False)
    packed = replace(layer.packed, tables=tables)
    x = torch.zeros(k, k).fill_diagonal_(127.0)
    y = DeviceLayer(emulated, Layer(packed, None)).linear(x, "fast")
    assert torch.equal(y, 127.0 * packed.dequantize().T)


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_not_finite(emulated: Device, precision: str) -> None:
    layer = make("outliers", 21, 300, bits=3)
    x = activations(4, 300, torch.float32)
    clean = DeviceLayer(emulated, layer).linear(x, precision)
    x[1, 299], x[2, 0] = torch.nan, -torch.inf
    y = DeviceLayer(emulated, layer).linear(x, precision)
    assert bool(y[1:3].isnan().all())
    assert same_bits(y[[0, 3]], clean[[0, 3]])


def test_zero_tables_and_rows(emulated: Device) -> None:
    layer = make("scalar", 17, 64, bits=2)
    assert isinstance(layer.packed, CodebookScalar)
    tables = layer.packed.tables.clone()
    tables[3] = 0
    layer = Layer(replace(layer.packed, tables=tables), layer.bias)
    y = DeviceLayer(emulated, layer).linear(torch.zeros(1, 64), "high")
    assert layer.bias is not None
    assert torch.equal(y[0], layer.bias.float())


@pytest.mark.parametrize("bits", range(1, 9))
def test_restore(emulated: Device, bits: int) -> None:
    layer = make("scalar", 35, 391, bits=bits)
    assert torch.equal(DeviceLayer(emulated, layer).restored(), layer.packed.tensors()["weight"])


def test_refuses(emulated: Device) -> None:
    on_device = DeviceLayer(emulated, make("scalar", 4, 8, bits=3))
    with pytest.raises(DeviceError, match="x has 9 columns; allowed: 8"):
        on_device.linear(torch.zeros(1, 9), "fast")
    on_device.struct.bits = 9
    with pytest.raises(DeviceError, match="bits is 9; allowed: 1 to 8"):
        on_device.linear(torch.zeros(1, 8), "fast")
