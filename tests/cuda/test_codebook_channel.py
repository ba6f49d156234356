"""Channel codebooks on the emulated device against fp64: fp32 sums at every precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit.formats import CodebookChannel
from torch import Tensor

from tests.cuda.codebook import DeviceLayer, assert_close, same_bits
from tests.emulated.device import Device, DeviceError
from tests.ops.cases import DTYPES, Layer, activations, make

KINDS = ("channel0", "channel1")


def layer_of(
    kind: str,
    n: int,
    k: int,
    clusters: int,
    rank: int,
    dtype: torch.dtype = torch.float16,
    label_dtype: torch.dtype = torch.uint8,
) -> Layer:
    rng = torch.Generator().manual_seed(n + k + rank)
    axis = int(kind[-1])
    shape = (clusters, k) if axis == 0 else (n, clusters)
    labels = torch.randint(clusters, (n if axis == 0 else k,), generator=rng).to(label_dtype)
    low_rank = (None, None)
    if rank:
        low_rank = (
            torch.randn(n, rank, generator=rng).to(dtype),
            torch.randn(rank, k, generator=rng).to(dtype),
        )
    weight = torch.randn(*shape, generator=rng).to(dtype)
    packed = CodebookChannel(weight, labels, axis, k, n, *low_rank)
    return Layer(packed, torch.randn(n, generator=rng).to(dtype))


def check(layer: Layer, x: Tensor, y: Tensor, halves: int = 1) -> None:
    assert layer.bias is not None
    reference = x.double() @ layer.packed.dequantize().double().T + layer.bias.double()
    packed = layer.packed
    norms = layer.norms(x)
    if isinstance(packed, CodebookChannel) and packed.rank:
        assert packed.low_rank_in is not None
        assert packed.low_rank_out is not None
        # The low-rank term is rounded in the middle: relative to |low_rank_out| |low_rank_in x|.
        middle = packed.low_rank_in.double().norm(dim=1)
        norms = norms + x.double().norm(dim=1, keepdim=True) * (packed.low_rank_out.double().abs() @ middle)
    assert_close(y, reference, 1e-5 * norms, halves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 1, 8, 13])
@pytest.mark.parametrize(
    ("n", "k", "clusters"), [(1, 1, 1), (7, 33, 3), (37, 515, 20), (64, 128, 256), (33, 4099, 9)]
)
def test_shapes(emulated: Device, kind: str, n: int, k: int, clusters: int, rank: int) -> None:
    layer = layer_of(kind, n, k, clusters, rank)
    on_device = DeviceLayer(emulated, layer)
    x = activations(3, k, torch.float16, seed=k)
    check(layer, x, on_device.linear(x, "high", apart=1))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens(emulated: Device, kind: str) -> None:
    """Any number of tokens, and the same bits for a token whatever comes with it, at every precision."""
    layer = layer_of(kind, 45, 1040, 40, 8)
    on_device = DeviceLayer(emulated, layer)
    x = activations(33, 1040, torch.float32)
    whole = on_device.linear(x, "exact")
    check(layer, x, whole)
    for m in (0, 1, 2, 8, 9, 16, 17):
        assert same_bits(on_device.linear(x[33 - m :], "fast"), whole[33 - m :])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_dtypes(emulated: Device, kind: str, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    layer = layer_of(kind, 24, 96, 11, 8, weight_dtype)
    x = activations(2, 96, dtype)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, "high"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.uint16, torch.int32])
def test_labels(emulated: Device, kind: str, label_dtype: torch.dtype) -> None:
    clusters = 200 if label_dtype == torch.uint8 else 700
    layer = layer_of(kind, 750, 720, clusters, 0, label_dtype=label_dtype)
    x = activations(2, 720, torch.float32)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, "high"))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_clusters(emulated: Device, kind: str) -> None:
    layer = layer_of(kind, 40, 40, 9, 0)
    assert isinstance(layer.packed, CodebookChannel)
    labels = torch.full((40,), 4, dtype=torch.uint8)
    layer = Layer(replace(layer.packed, labels=labels), layer.bias)
    x = activations(1, 40, torch.float32)
    check(layer, x, DeviceLayer(emulated, layer).linear(x, "high"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 3])
def test_not_finite(emulated: Device, kind: str, rank: int) -> None:
    layer = layer_of(kind, 30, 100, 12, rank)
    on_device = DeviceLayer(emulated, layer)
    x = activations(4, 100, torch.float32)
    clean = on_device.linear(x, "high")
    x[1, 99], x[2, 0] = torch.nan, -torch.inf
    y = on_device.linear(x, "high")
    assert bool(y[1:3].isnan().all())
    assert same_bits(y[[0, 3]], clean[[0, 3]])


def test_order_is_stable(emulated: Device) -> None:
    layer = make("channel1", 9, 300)
    on_device = DeviceLayer(emulated, layer)
    assert isinstance(layer.packed, CodebookChannel)
    labels = layer.packed.labels.long()
    order = on_device.arrays[-1].tensor()
    counts = torch.bincount(labels, minlength=layer.packed.clusters)
    assert torch.equal(
        order[: layer.packed.clusters + 1].long(), torch.cat([torch.zeros(1), counts.cumsum(0)]).long()
    )
    assert torch.equal(order[layer.packed.clusters + 1 :].long(), labels.argsort(stable=True))


def test_refuses(emulated: Device) -> None:
    on_device = DeviceLayer(emulated, layer_of("channel0", 4, 8, 3, 0))
    on_device.struct.axis = 2
    with pytest.raises(DeviceError, match="axis is 2; allowed: 0 to 1"):
        on_device.linear(torch.zeros(1, 8), "fast")
