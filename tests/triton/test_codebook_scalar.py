"""Interpreted Triton kernels of scalar codebooks against fp64.

Tables of up to 4 bits in `fast` and `high` are in fixed point, t = 255 t1 + t0, |t| <= 32256: their error, at
most amax / 64512 of a row, is compared with its bound apart from the products.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from lowbit.backends import triton_codebook_layout, triton_layout
from lowbit.formats import CodebookScalar, prepare_activations
from lowbit.triton_kernels.codebook.permute import bytes_of, permute_bytes
from torch import Tensor

from tests.cuda.test_codebook_scalar import dense, fixed_point
from tests.ops.cases import DTYPES, activations
from tests.triton import codebook
from tests.triton.codebook import TritonLayer, assert_close, make

PRECISIONS = ("fast", "high", "exact")
TABLE_BITS = (1, 2, 3, 4)  # that are looked up in fixed point


def check(layer: TritonLayer, x: Tensor, y: Tensor, precision: str) -> None:
    packed = layer.packed
    assert isinstance(packed, CodebookScalar)
    integers = precision != "exact" and packed.bits in TABLE_BITS
    bias = 0.0 if layer.bias is None else layer.bias.double()
    z = prepare_activations(x, precision if integers or precision == "fast" else "exact").double()
    tables = fixed_point(packed.tables) if integers else packed.tables.double()
    norms = layer.norms(z)
    # Outliers are multiplied with x as it is in `high`, which the fp32 bound does not see.
    rounded = 2.0**-15 * norms if precision == "high" and packed.outlier_values is not None else 0.0
    assert_close(y, z @ dense(packed, tables).T + bias, 1e-5 * norms + rounded)
    largest = packed.tables.double().abs().amax(dim=1)
    table_error = z.abs().sum(dim=1, keepdim=True) * largest / 64512 * 1.001
    assert_close(
        y, z @ packed.dequantize().double().T + bias, 1e-5 * norms + rounded + integers * table_error
    )
    if precision == "high":
        assert_close(y, x.double() @ packed.dequantize().double().T + bias, 1e-3 * layer.norms(x))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(bits: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program goes over all inputs."""
    codebook.set_multiprocessors(monkeypatch, 1)
    layer = make("outliers", 37, 515, seed=bits, bits=bits)
    x = activations(3, 515, torch.float32, seed=bits)
    check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("n", "k", "bits"), [(1, 1, 3), (1, 257, 2), (2, 3, 4), (129, 255, 1), (5, 1031, 3)])
def test_shapes(n: int, k: int, bits: int, precision: str) -> None:
    """The inputs are split as far as they go."""
    layer = make("scalar", n, k, seed=n + k, bits=bits, bias=n > 1)
    x = activations(2, k, torch.float16, seed=k)
    check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize(("bits", "precision"), [(3, "fast"), (4, "high"), (2, "exact")])
def test_tokens(bits: int, precision: str) -> None:
    layer = make("outliers", 3, 10, seed=bits, bits=bits)
    many = 33 if precision == "fast" else 17
    codebook.check_tokens(layer, precision, lambda x, y: check(layer, x, y, precision), many)


@pytest.mark.parametrize(("dtype", "table_dtype"), list(zip(DTYPES, (*DTYPES[1:], DTYPES[0]), strict=True)))
def test_dtypes(dtype: torch.dtype, table_dtype: torch.dtype) -> None:
    layer = make("outliers", 9, 40, bits=2, scale_dtype=table_dtype)
    x = activations(2, 40, dtype)
    for precision in PRECISIONS:
        check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize("bits", TABLE_BITS)
def test_integers_are_exact(bits: int) -> None:
    """Tables and activations on the grid: nothing is rounded but the result."""
    n, k = 18, 100
    generator = torch.Generator().manual_seed(bits)
    tables = torch.randint(-32256, 32257, (n, 2**bits), generator=generator).float()
    tables[:, -1] = 32256.0
    packed = make("scalar", n, k, bits=bits, scale_dtype=torch.float32).packed
    layer = codebook.of(replace(packed, tables=tables))
    for precision, largest in (("fast", 127), ("high", 32639)):
        x = torch.randint(-largest, largest + 1, (2, k), generator=generator).float()
        x[:, 0] = largest
        exact = x.double() @ layer.packed.dequantize().double().T
        assert torch.equal(layer.native(x, precision), exact.float())


@pytest.mark.parametrize("bits", [1, 3, 4, 7])
def test_one_hot(bits: int) -> None:
    codebook.check_one_hot(make("scalar", 6, 37, bits=bits, bias=False))


def test_zero_tables() -> None:
    layer = make("scalar", 3, 40, bits=4, bias=False)
    assert isinstance(layer.packed, CodebookScalar)
    layer = codebook.of(replace(layer.packed, tables=torch.zeros_like(layer.packed.tables)))
    for precision in PRECISIONS:
        assert not bool(layer.native(activations(2, 40, torch.float32), precision).any())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_not_finite(precision: str) -> None:
    codebook.check_not_finite(make("outliers", 7, 90, bits=3), precision)


def test_strides() -> None:
    codebook.check_strides(make("scalar", 3, 20, bits=5), "fast")


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 256), (3, 1031)])
def test_restored(bits: int, n: int, k: int) -> None:
    codebook.check_restored(make("outliers", n, k, bits=bits))


@pytest.mark.parametrize("kind", ["scalar", "outliers"])
def test_rows_are_restored_alone_and_few_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(kind, 9, 300, bits=3)
    whole, metadata = layer.runtime(None), layer.packed.metadata()
    unpacked: list[int] = []

    def unpack(lines: Tensor, bits: int) -> Tensor:
        unpacked.append(lines.shape[0])
        return original(lines, bits)

    original = triton_codebook_layout._unpack_field
    monkeypatch.setattr(triton_codebook_layout, "_unpack_field", unpack)
    triton_codebook_layout.rows(whole, metadata, torch.tensor([4, 2]))
    assert unpacked == [2]
    monkeypatch.setattr(triton_layout, "_CHUNK_CODES", 4 * 300)
    assert torch.equal(layer.runtime(None)["weight"], whole["weight"])
    codebook.check_restored(layer)
    assert unpacked == [2, 4, 4, 4, 1]


@triton.jit
def permute(low, high, selectors, out):
    at = tl.arange(0, 16)[None, :]
    words = permute_bytes(tl.load(low + at), tl.load(high + at), tl.load(selectors + at), False)
    tl.store(out + tl.arange(0, 64)[None, :], bytes_of(words))


def test_permute_bytes() -> None:
    """What the PTX manual says of prmt.b32, and the order of the bytes."""
    random = torch.Generator().manual_seed(0)
    low, high, selectors = torch.randint(-(2**31), 2**31, (3, 16), generator=random, dtype=torch.int64).to(
        torch.int32
    )
    out = torch.empty(64, dtype=torch.int8)
    permute[(1,)](low, high, selectors, out)
    choices = torch.stack([low, high], dim=1).view(torch.int8)  # [16, 8]
    nibbles = (selectors[:, None] >> (4 * torch.arange(4))) & 15
    chosen = choices.gather(1, (nibbles & 7).long())
    expected = torch.where(nibbles >= 8, torch.where(chosen < 0, -1, 0).to(torch.int8), chosen)
    assert torch.equal(out, expected.flatten())
