"""One timing per kernel, precision and batch size, for `make bench` (pytest-benchmark).

Small warm shapes, to see a kernel change its speed; comparisons with other libraries, on weights that do not
fit the cache, are in the other files of this folder. LOWBIT_BENCH_SIZE=NxK times another shape.
"""

from __future__ import annotations

import os

import pytest
import torch
from lowbit.formats import PRECISIONS
from lowbit.ops import _library

from tests.native import needs_native
from tests.ops import cases

pytestmark = needs_native

N, K = (int(size) for size in os.environ.get("LOWBIT_BENCH_SIZE", "512x1024").split("x"))


@pytest.mark.parametrize("m", [1, 4, 32])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_linear(benchmark, kind, precision, m):
    layer = cases.make(kind, N, K)
    time(benchmark, layer, layer.arguments(precision), m)


@pytest.mark.parametrize("m", [1, 4, 32])
@pytest.mark.parametrize("activation_bits", [0, 1, 4, 8])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_planes_bits(benchmark, bits, activation_bits, m):
    layer = cases.make("planes", N, K, bits=bits)
    time(benchmark, layer, layer.arguments("fast", activation_bits), m)


@pytest.mark.parametrize("m", [1, 4, 32])
def test_segments(benchmark, m):
    """Three sibling layers in one call: the prologue of each, one pool wake-up."""
    layers = [cases.make("mos", n, K, n) for n in (N, N // 4, N // 4)]
    parts = [layer.arguments("fast") for layer in layers]
    tiles, router, in_scales, out_scales, bias = ([part[i] for part in parts] for i in (0, 2, 3, 4, 5))
    sizes = [layer.n for layer in layers]
    arguments = (
        torch.cat(tiles),
        None,
        torch.stack(router),
        torch.stack(in_scales),
        torch.cat(out_scales, dim=1),
        torch.cat(bias),
        sizes,
        K,
        sum(sizes),
        -1,
        PRECISIONS.index("fast"),
    )
    time(benchmark, layers[0], arguments, m)


def time(benchmark, layer, arguments, m):
    x = cases.activations(m, K, torch.float32)
    operator = _library.operator(f"{layer.packed.kind}_linear")
    with torch.inference_mode():
        benchmark(operator, x, *arguments)
