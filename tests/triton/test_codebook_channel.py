"""Interpreted Triton kernels of channel codebooks against fp64: to fp32 accuracy at every precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit.triton_kernels.codebook.channel import gather
from torch import Tensor

from tests.cuda import test_codebook_channel as cuda
from tests.cuda.test_codebook_channel import layer_of
from tests.ops.cases import DTYPES, activations
from tests.triton import codebook
from tests.triton.codebook import TritonLayer

KINDS = ("channel0", "channel1")


def make(
    kind: str,
    n: int,
    k: int,
    clusters: int,
    rank: int,
    dtype: torch.dtype = torch.float16,
    label_dtype: torch.dtype = torch.uint8,
) -> TritonLayer:
    layer = layer_of(kind, n, k, clusters, rank, dtype, label_dtype)
    return TritonLayer(layer.packed, layer.bias)


def check(layer: TritonLayer, x: Tensor, y: Tensor) -> None:
    cuda.check(layer, x, y, codebook.halves(y))


@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "k", "clusters", "rank"),
    [(1, 1, 1, 0), (7, 33, 3, 1), (37, 515, 20, 13), (70, 128, 256, 40), (33, 1031, 9, 8)],
)
def test_shapes(
    kind: str, n: int, k: int, clusters: int, rank: int, multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codebook.set_multiprocessors(monkeypatch, multiprocessors)
    layer = make(kind, n, k, clusters, rank)
    x = activations(3, k, torch.float32, seed=k)
    for precision in ("high", "exact"):
        check(layer, x, layer.native(x, precision))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_tokens(kind: str, precision: str) -> None:
    layer = make(kind, 5, 12, 3, 2)
    codebook.check_tokens(layer, precision, lambda x, y: check(layer, x, y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_dtypes(kind: str, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    layer = make(kind, 24, 96, 11, 8, weight_dtype)
    x = activations(2, 96, dtype)
    for precision in ("high", "exact"):
        check(layer, x, layer.native(x, precision))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.uint16])
def test_labels(kind: str, label_dtype: torch.dtype) -> None:
    clusters = 200 if label_dtype == torch.uint8 else 700
    layer = make(kind, 150, 120, clusters, 0, label_dtype=label_dtype)
    x = activations(2, 120, torch.float32)
    check(layer, x, layer.native(x, "high"))


def test_highest_label() -> None:
    """Labels above 2^15 are not taken for negative."""
    labels = torch.tensor([39999, 1], dtype=torch.uint16)
    y = torch.empty(1, 2)
    gather(y, torch.arange(40000.0)[None], labels, None, None, None)
    assert y.tolist() == [[39999.0, 1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_clusters(kind: str) -> None:
    layer = make(kind, 40, 40, 9, 0)
    layer = TritonLayer(replace(layer.packed, labels=torch.full((40,), 4, dtype=torch.uint8)), layer.bias)
    x = activations(1, 40, torch.float32)
    check(layer, x, layer.native(x, "high"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("precision", ["high", "exact"])
def test_not_finite(kind: str, rank: int, precision: str) -> None:
    codebook.check_not_finite(make(kind, 30, 100, 12, rank), precision)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot(kind: str) -> None:
    layer = make(kind, 13, 37, 5, 0)
    codebook.check_one_hot(TritonLayer(layer.packed, None))


@pytest.mark.parametrize("kind", KINDS)
def test_strides(kind: str) -> None:
    codebook.check_strides(make(kind, 5, 20, 3, 2), "exact")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clusters", [7, 300])
def test_restored(kind: str, clusters: int) -> None:
    label_dtype = torch.uint8 if clusters <= 256 else torch.uint16
    codebook.check_restored(make(kind, 20, 30, clusters, 2, label_dtype=label_dtype))
