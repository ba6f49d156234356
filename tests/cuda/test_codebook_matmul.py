"""More than 256 tokens of scalar and vector codebooks: rows expanded to fp16, and a matrix product that the
caller has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lowbit.formats import CodebookScalar, CodebookVector
from torch import Tensor

from tests.cuda.bits import Matmul, last_error
from tests.cuda.codebook import DeviceLayer, same_bits
from tests.cuda.test_codebook_vector import layer_of as vector
from tests.emulated.device import Device, DeviceError, load
from tests.ops.cases import DTYPES, Layer, activations, check, make

M = 257
EPS = 1e-3  # of `high`
SIZES = (4, 8)  # of vectors that have entries in fp16


def scalar(n: int, k: int, bits: int, outliers: bool = False, **how: Any) -> Layer:
    return make("outliers" if outliers else "scalar", n, k, seed=n + k, bits=bits, **how)


def run(
    device: Device, layer: Layer, x: Tensor, precision: str = "high", apart: int = 0
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """y and the products that were asked for. With one multiprocessor a tile has 128 rows."""
    matmul = Matmul()
    y = DeviceLayer(device, layer).linear(x, precision, apart=apart, gpu=matmul.device(1))
    return y, matmul.products


def tile_of(products: list[tuple[Tensor, Tensor]], k: int) -> Tensor:
    return torch.cat([b for _, b in products]).double()[:, :k]


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_scalar_rows(emulated: Device, bits: int, outliers: bool) -> None:
    """Every weight of the tile is the specification's, rounded to fp16 at its row's power of two; twice where
    there is an outlier."""
    layer = scalar(35, 515, bits, outliers=outliers)
    packed = layer.packed
    assert isinstance(packed, CodebookScalar)
    x = activations(M, 515, torch.float16, bits)
    y, products = run(emulated, layer, x)
    tile, weight = tile_of(products, 515), packed.dequantize().double()
    power = 2.0 ** torch.log2(tile.abs().amax(1) / weight.abs().amax(1)).round()[:, None]
    assert bool((tile.abs() <= 2.0**15).all())
    assert bool((tile.abs().amax(1) >= 2.0**12).all())
    ulp = (weight.abs() * 2.0**-11 + 2.0**-24 / power) * (2 if outliers else 1)
    spare = packed.tables.double().abs().amax(1, keepdim=True) * 2.0**-11 if outliers else 0.0
    assert bool(((tile / power - weight).abs() <= ulp + spare).all())
    check(layer, x, y, "high", EPS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("books", [1, 2, 3, 9])
def test_vector_rows(emulated: Device, size: int, books: int) -> None:
    """Sums of entries, without the scale of their row; as many codebooks as fill up chunks, or do not."""
    layer = vector(35, 515, size, books)
    packed = layer.packed
    assert isinstance(packed, CodebookVector)
    x = activations(M, 515, torch.float16, books)
    y, products = run(emulated, layer, x)
    tile = tile_of(products, 515)
    weight = packed.dequantize().double() / packed.out_scales.double()[:, None]
    power = 2.0 ** torch.log2(tile.abs().amax() / weight.abs().amax()).round()
    assert bool((tile.abs() <= 2.0**15).all())
    assert bool(((tile / power - weight).abs() <= weight.abs() * 2.0**-11 + 2.0**-12 / power).all())
    check(layer, x, y, "high", EPS)


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (1, 129), (16, 63), (17, 64), (127, 65), (128, 257), (129, 300), (300, 15)]
)
def test_shapes(emulated: Device, n: int, k: int) -> None:
    """Around a tile of rows and the padding of inputs, and more tokens than a block of the last launch."""
    for layer in (scalar(n, k, 3), scalar(n, k, 5), *(vector(n, k, size) for size in SIZES)):
        x = activations(M + 43, k, torch.float32, k)
        y, products = run(emulated, layer, x, apart=3)
        assert [b.shape[0] for _, b in products] == [128] * (n // 128) + [n % 128] * (n % 128 > 0)
        assert all(b.shape[1] == -(-k // 64) * 64 for _, b in products)
        assert all(bool(b.isfinite().all()) for _, b in products)
        check(layer, x, y, "high", EPS)


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_filled_up(emulated: Device, size: int) -> None:
    """Zeros where no code is, as memory may hold what is not finite there."""
    _, products = run(emulated, vector(20, 65, size), activations(M, 65, torch.float16))
    filled = torch.cat([b for _, b in products])[:, -(-65 // (4 * size)) * 4 * size :]
    assert filled.shape[1] >= 32
    assert bool((filled == 0).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
def test_dtypes(emulated: Device, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    x = activations(M, 100, dtype)
    for layer in (
        scalar(24, 100, 4, scale_dtype=weight_dtype, outliers=True),
        vector(24, 100, dtype=weight_dtype),
    ):
        y, products = run(emulated, layer, x)
        assert products
        check(layer, x, y, "high", EPS)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e20, 1e30])
def test_any_range(emulated: Device, magnitude: float) -> None:
    """Powers of two keep activations and entries of any size in fp16."""
    x = activations(M, 200, torch.float32, 3)
    for layer in (
        scalar(17, 200, 3, scale_dtype=torch.bfloat16, bias=False),
        vector(17, 200, dtype=torch.bfloat16, bias=False),
    ):
        y, _ = run(emulated, layer, x * magnitude)
        check(layer, x * magnitude, y, "high", EPS)
        packed = layer.packed
        if isinstance(packed, CodebookScalar):
            packed.tables.mul_(magnitude)
        else:
            assert isinstance(packed, CodebookVector)
            packed.codebooks.mul_(magnitude)
        y, _ = run(emulated, layer, x)
        check(layer, x, y, "high", EPS)


def test_non_finite_tokens(emulated: Device) -> None:
    for layer in (scalar(20, 150, 4, outliers=True), vector(20, 150)):
        x = activations(M, 150, torch.float32, 7)
        clean, _ = run(emulated, layer, x)
        x[1, 149], x[256, 0] = torch.nan, -torch.inf
        y, _ = run(emulated, layer, x)
        bad = torch.zeros(M, dtype=torch.bool)
        bad[[1, 256]] = True
        assert bool(y[bad].isnan().all())
        assert same_bits(y[~bad], clean[~bad])


def test_turns(emulated: Device) -> None:
    """More tokens than the workspace holds: what is left is multiplied as so many tokens are."""
    for tokens, products in ((1024 + 300, [1024, 300]), (1024 + 5, [1024])):
        for layer in (scalar(3, 40, 4, outliers=True), scalar(3, 40, 6), vector(3, 40)):
            x = activations(tokens, 40, torch.float16, 2)
            y, asked = run(emulated, layer, x)
            assert [a.shape[0] for a, _ in asked] == products
            check(layer, x, y, "high", EPS)


def test_not_taken(emulated: Device) -> None:
    """Few tokens, products of integers, `exact`, and vectors without entries in fp16."""
    many, few = activations(M, 40, torch.float16), activations(M - 1, 40, torch.float16)
    for layer, x, precision in (
        (scalar(3, 40, 4), few, "high"),
        (scalar(3, 40, 4), many, "fast"),
        (scalar(3, 40, 4), many, "exact"),
        (vector(3, 40), few, "high"),
        (vector(3, 40), many, "exact"),
        (vector(3, 40, 5), many, "high"),
    ):
        assert run(emulated, layer, x, precision)[1] == []
    assert len(run(emulated, vector(3, 40), many, "fast")[1]) == 1


def test_a_product_that_fails() -> None:
    device, matmul = load("lowbit_emulated"), Matmul(status=4)
    for layer in (scalar(3, 40, 2), vector(3, 40)):
        with pytest.raises(DeviceError):
            DeviceLayer(device, layer).linear(activations(M, 40, torch.float16), "high", gpu=matmul.device())
        assert last_error(device) == "the caller's matrix product failed"
