"""What only the native CPU kernels promise: any number of threads, prompts, an output that lies on the input.

What every backend promises is in test_family.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from lowbit.formats import PRECISIONS

from tests.ops import cases

_native = pytest.importorskip("lowbit._native", reason="installed without native kernels")


@pytest.mark.parametrize("kind", cases.KINDS)
@given(
    n=cases.sizes,
    k=cases.sizes,
    m=st.integers(0, 33),
    seed=cases.seeds,
    precision=st.sampled_from(PRECISIONS),
    dtype=st.sampled_from(cases.DTYPES),
    threads=st.integers(2, 3),
)
@example(n=1501, k=1100, m=3, seed=1, precision="fast", dtype=torch.float32, threads=3)  # work for three
def test_threads_change_nothing(kind, n, k, m, seed, precision, dtype, threads):
    layer = cases.make(kind, n, k, seed)
    x = cases.activations(m, k, dtype, seed)
    torch.set_num_threads(threads)
    y = layer.check(x, precision)
    torch.set_num_threads(1)
    assert torch.equal(y, layer.native(x, precision))


def test_sums_beyond_32_bits():
    layer = cases.make("planes", 65, 32768 + 64, 1, bits=8, group_size=-1)
    layer.check(cases.activations(2, 32768 + 64, torch.float32, 1), "fast", activation_bits=8)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize(("n", "k"), [(3, 10007), (10007, 5)])
def test_large(kind, n, k):
    layer = cases.make(kind, n, k)
    x = cases.activations(2, k, torch.bfloat16)
    for precision in PRECISIONS:
        layer.check(x, precision)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m", [33, 70, 301])
def test_many_tokens(kind, precision, m):
    """A prompt; any of its rows is what it would be alone, or among 48 where sums are by panels of tokens."""
    layer = cases.make(kind, 130, 200, 3)
    x = cases.activations(m, 200, torch.float16, 3).reshape(1, m, 200)
    y = layer.check(x, precision)
    slices = [slice(0, 1), slice(m // 2, m // 2 + 3), slice(m - 20, m)]
    by_panels = {"channel0", "channel1", "vector"}
    if precision == "fast" and _native.current_isa() == "amx":
        by_panels |= {"scalar", "outliers"}
    if kind in by_panels and m >= 48:
        slices = [slice(0, 48), slice(m - 50, m)]
    for rows in slices:
        assert torch.equal(y[:, rows], layer.native(x[:, rows], precision))


@pytest.mark.parametrize("shift", [0, 1, -1])
@pytest.mark.parametrize("kind", ["signs", "channel0", "scalar", "vector"])
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_out_may_lie_on_x(kind, shift, precision):
    """Rows of `out` on the same or other rows of x, more tokens than are prepared at a time."""
    layer = cases.make(kind, 256, 256)
    rows = torch.randn(601, 256, generator=cases.generator(5))
    x, out = (rows[max(-shift, 0) :][:600], rows[max(shift, 0) :][:600])
    arguments = layer.arguments(precision)
    expected = layer.native(x.clone(), precision)
    layer.operator("_out")(x, *arguments, out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("m", [16, 40, 70])
def test_out_may_lie_on_x_with_more_outputs_than_are_summed_at_a_time(m, precision):
    """Rows of `out` begin where those of x do, and are longer."""
    layer = cases.make("vector", 16400, 520)
    out = torch.randn(m, 16400, generator=cases.generator(5))
    x = out[:, :520]
    arguments = layer.arguments(precision)
    expected = layer.native(x.clone(), precision)
    layer.operator("_out")(x, *arguments, out)
    assert torch.equal(out, expected)
