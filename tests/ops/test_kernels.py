"""Every native operator against the fp64 specification, over shapes, dtypes, strides, threads and batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lowbit.formats import PRECISIONS, Signs

from tests.native import needs_native
from tests.ops import cases

pytestmark = needs_native

precisions = st.sampled_from(PRECISIONS)
dtypes = st.sampled_from(cases.DTYPES)
group_sizes = st.sampled_from((-1, 32, 64, 128, 160))


@pytest.mark.parametrize("kind", cases.KINDS)
@given(
    n=cases.sizes,
    k=cases.sizes,
    m=st.integers(0, 33),
    seed=cases.seeds,
    precision=precisions,
    dtype=dtypes,
    scale_dtype=dtypes,
    strides=st.sampled_from(cases.STRIDES),
    group_size=group_sizes,
    bias=st.booleans(),
    threads=st.integers(1, 3),
)
@example(  # enough work for three threads
    n=1501,
    k=1100,
    m=3,
    seed=1,
    precision="fast",
    dtype=torch.float32,
    scale_dtype=torch.float16,
    strides="contiguous",
    group_size=64,
    bias=True,
    threads=3,
)
def test_error_bound(kind, n, k, m, seed, precision, dtype, scale_dtype, strides, group_size, bias, threads):
    layer = cases.make(kind, n, k, seed, group_size=group_size, scale_dtype=scale_dtype, bias=bias)
    x = cases.activations(m, k, dtype, seed, strides)
    torch.set_num_threads(threads)
    y = layer.native(x, precision)
    cases.check(layer, x, y, precision)
    torch.set_num_threads(1)
    assert torch.equal(y, layer.native(x, precision)), "depends on the number of threads"


@given(
    n=cases.sizes,
    k=cases.sizes,
    m=st.integers(1, 33),
    seed=cases.seeds,
    bits=st.integers(1, 8),
    drop=st.integers(0, 7),
    activation_bits=st.integers(0, 8),
    group_size=group_sizes,
    precision=precisions,
)
@example(n=65, k=32768 + 64, m=2, seed=1, bits=8, drop=0, activation_bits=8, group_size=-1, precision="fast")
def test_planes_bits(n, k, m, seed, bits, drop, activation_bits, group_size, precision):
    """Every weight width, truncation and activation width."""
    layer = cases.make("planes", n, k, seed, bits=bits, group_size=group_size)
    x = cases.activations(m, k, torch.float32, seed)
    choice = {"active_bits": max(1, bits - drop), "activation_bits": activation_bits}
    cases.check(layer, x, layer.native(x, precision, **choice), precision, **choice)


@given(n=cases.sizes, k=cases.sizes, m=st.integers(1, 9), seed=cases.seeds, bits=st.integers(1, 8))
@settings(max_examples=20)
def test_scalar_bits(n, k, m, seed, bits):
    layer = cases.make("outliers", n, k, seed, bits=bits)
    x = cases.activations(m, k, torch.float32, seed)
    for precision in PRECISIONS:
        cases.check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize(("n", "k"), [(3, 10007), (10007, 5)])
def test_large(kind, n, k):
    layer = cases.make(kind, n, k)
    x = cases.activations(2, k, torch.bfloat16)
    for precision in PRECISIONS:
        cases.check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m", [33, 70, 301])
def test_many_tokens(kind, precision, m):
    """A prompt; and any of its rows is what it would be alone."""
    layer = cases.make(kind, 130, 200, 3)
    x = cases.activations(m, 200, torch.float16, 3).reshape(1, m, 200)
    y = layer.native(x, precision)
    cases.check(layer, x, y, precision)
    for rows in (slice(0, 1), slice(m // 2, m // 2 + 3), slice(m - 20, m)):
        assert torch.equal(y[:, rows], layer.native(x[:, rows], precision))


@pytest.mark.parametrize("kind", ["signs", "planes", "channel0", "channel1", "scalar", "outliers", "vector"])
@given(n=cases.sizes, k=cases.sizes, seed=cases.seeds, group_size=group_sizes)
@settings(max_examples=12)
def test_one_hot_inputs_read_the_weight(kind, n, k, seed, group_size):
    layer = cases.make(kind, n, k, seed, group_size=group_size, bias=False)
    if kind.startswith("channel"):  # a low-rank part is a sum of its own
        packed = layer.packed
        layer = cases.Layer(type(packed)(packed.weight, packed.labels, packed.axis, k, n), None)
    weight = layer.packed.dequantize()
    eye = torch.eye(k)
    rows = torch.randperm(k, generator=cases.generator(seed))[:48].tolist()
    for first in range(0, len(rows), 16):
        some = rows[first : first + 16]
        assert torch.equal(layer.native(eye[some], "exact"), weight[:, some].T)


@pytest.mark.parametrize("kind", cases.KINDS)
@given(
    n=cases.sizes, k=cases.sizes, m=st.integers(2, 32), seed=cases.seeds, precision=precisions, dtype=dtypes
)
@settings(max_examples=15)
def test_a_row_does_not_depend_on_the_batch(kind, n, k, m, seed, precision, dtype):
    layer = cases.make(kind, n, k, seed)
    x = cases.activations(m, k, dtype, seed)
    together = layer.native(x, precision)
    for size in (1, 2, 5):
        apart = torch.cat([layer.native(part, precision) for part in x.split(size)])
        assert torch.equal(together, apart)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_token_is_all_nan_and_alone(kind, precision, bad):
    layer = cases.make(kind, 70, 150, 7)
    x = cases.activations(3, 150, torch.float32, 7)
    clean = layer.native(x, precision)
    x[1, 149] = bad
    y = layer.native(x, precision)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("kind", cases.KINDS)
def test_zeros_and_subnormals(kind):
    layer = cases.make(kind, 70, 150, 7)
    x = torch.zeros(2, 150)
    x[1] = 1e-42
    for precision in PRECISIONS:
        cases.check(layer, x, layer.native(x, precision), precision)


@given(
    parts=st.lists(st.sampled_from((1, 5, 64, 65, 100)), min_size=1, max_size=4),
    k=cases.sizes,
    m=st.integers(1, 5),
    seed=cases.seeds,
    kind=st.sampled_from(("signs", "onebit", "mos")),
    precision=precisions,
)
@settings(max_examples=25)
def test_segments_are_the_layers_apart(parts, k, m, seed, kind, precision):
    """Fused sibling layers give exactly what each gives alone."""
    layers = [cases.make(kind, n, k, seed + i) for i, n in enumerate(parts)]
    x = cases.activations(m, k, torch.bfloat16, seed)
    apart = torch.cat([layer.native(x, precision) for layer in layers], dim=-1)
    arguments = [layer.arguments(precision) for layer in layers]
    tiles, scales, router, in_scales, out_scales, bias = zip(*(a[:6] for a in arguments), strict=True)

    def joined(tensors, join, dim):
        return None if tensors[0] is None else join(list(tensors), dim)

    packed = layers[0].packed
    assert isinstance(packed, Signs)
    fused = torch.ops.lowbit.signs_linear(
        x,
        torch.cat(tiles),
        joined(scales, torch.cat, 0),
        joined(router, torch.stack, 0),
        joined(in_scales, torch.stack, 0),
        joined(out_scales, torch.cat, 1),
        torch.cat(bias),
        parts,
        k,
        sum(parts),
        packed.group_size,
        PRECISIONS.index(precision),
    )
    assert torch.equal(fused, apart)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("m", [1, 5, 40])
def test_out_is_the_same(kind, m):
    layer = cases.make(kind, 70, 150, 7)
    x = cases.activations(m, 150, torch.float32, 7)
    for precision in PRECISIONS:
        expected = layer.native(x, precision)
        arguments = layer.arguments(precision)
        for out in (torch.empty(m, 70), torch.empty(70, m).T, torch.empty(m, 99)[:, 3:73]):
            assert layer.operator("_out")(x, *arguments, out) is None
            assert torch.equal(out, expected)


@pytest.mark.parametrize("shift", [0, 1, -1])
@pytest.mark.parametrize("kind", ["signs", "channel0"])
def test_out_may_lie_on_x(kind, shift):
    """Rows of `out` on the same or other rows of x, more tokens than are prepared at a time."""
    layer = cases.make(kind, 256, 256)
    rows = torch.randn(601, 256, generator=cases.generator(5))
    x, out = (rows[max(-shift, 0) :][:600], rows[max(shift, 0) :][:600])
    arguments = layer.arguments("exact")
    expected = layer.native(x.clone(), "exact")
    layer.operator("_out")(x, *arguments, out)
    assert torch.equal(out, expected)
