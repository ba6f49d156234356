"""Interpreted Triton kernels of vector codebooks against fp64.

Two 16-bit floats hold an activation to 2^-18 at least, so that the bound is that of fp32 at every precision.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit.formats import CodebookVector
from lowbit.triton_kernels.codebook import vector
from torch import Tensor

from tests.cuda.test_codebook_vector import layer_of
from tests.ops.cases import DTYPES, activations
from tests.triton import codebook
from tests.triton.codebook import TritonLayer, assert_close

PRECISIONS = ("fast", "high", "exact")


def make(
    n: int, k: int, size: int = 8, books: int = 2, dtype: torch.dtype = torch.float16, bias: bool = True
) -> TritonLayer:
    layer = layer_of(n, k, size, books, dtype, bias)
    return TritonLayer(layer.packed, layer.bias)


def check(layer: TritonLayer, x: Tensor, y: Tensor) -> None:
    bias = 0.0 if layer.bias is None else layer.bias.double()
    assert_close(y, x.double() @ layer.packed.dequantize().double().T + bias, 1e-5 * layer.norms(x))


@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16, 32, 64])
def test_sizes(size: int, multiprocessors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook.set_multiprocessors(monkeypatch, multiprocessors)
    layer = make(37, 515, size)
    x = activations(2, 515, torch.float32, seed=size)
    for precision in ("high", "exact"):
        check(layer, x, layer.native(x, precision))


@pytest.mark.parametrize("books", [1, 3, 5])
def test_books(books: int) -> None:
    layer = make(70, 300, books=books)
    x = activations(2, 300, torch.float32)
    for precision in ("high", "exact"):
        check(layer, x, layer.native(x, precision))


@pytest.mark.parametrize("precision", ["high", "exact"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 129), (2, 3), (131, 97), (5, 1031)])
def test_shapes(n: int, k: int, precision: str) -> None:
    layer = make(n, k, 4, bias=n > 1)
    x = activations(2, k, torch.float16, seed=k)
    check(layer, x, layer.native(x, precision))


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_tokens(precision: str) -> None:
    layer = make(3, 20, books=1)
    codebook.check_tokens(layer, precision, lambda x, y: check(layer, x, y))


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial sums of all tokens need not fit at once."""
    layer = make(9, 260)
    x = activations(3, 260, torch.float32)
    whole = layer.native(x, "exact")
    monkeypatch.setattr(vector, "MOST_SUMS", 2 * 2 * 48 * vector.ENTRIES)
    assert codebook.same_bits(layer.native(x, "exact"), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    layer = make(24, 100, dtype=weight_dtype)
    x = activations(2, 100, dtype)
    for precision in PRECISIONS:
        check(layer, x, layer.native(x, precision))


def test_wide_range() -> None:
    """Powers of two take tiny and huge activations into the range of fp16 and back."""
    layer = make(20, 64, bias=False)
    x = activations(5, 64, torch.float32) * torch.tensor([1.0, 2.0**-100, 2.0**100, 0.0, 2.0**-140])[:, None]
    y = layer.native(x, "high")
    check(layer, x[:3], y[:3])
    assert not bool(y[3].any())
    assert bool((y[4].abs() < 2.0**-120).all())


@pytest.mark.parametrize("precision", ["high", "exact"])
def test_not_finite(precision: str) -> None:
    codebook.check_not_finite(make(21, 90), precision)


@pytest.mark.parametrize("size", [3, 8])
def test_one_hot(size: int) -> None:
    layer = make(9, 37, size, books=1, bias=False)
    assert isinstance(layer.packed, CodebookVector)
    scales = torch.full_like(layer.packed.out_scales, 0.5)
    codebook.check_one_hot(codebook.of(replace(layer.packed, out_scales=scales)))


def test_strides() -> None:
    codebook.check_strides(make(3, 20), "high")


@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_restored(size: int) -> None:
    codebook.check_restored(make(7, 1031, size, 3))
