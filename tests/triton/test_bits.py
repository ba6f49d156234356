"""Interpreted Triton kernels of `signs` and `planes`: what tests/ops/test_family.py does not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lowbit.backends.arguments import SignsArguments
from lowbit.errors import ValueRangeError
from lowbit.formats import PRECISIONS, Signs
from lowbit.triton_kernels.launch import dry_run
from lowbit.triton_kernels.signs import signs_linear

from tests.ops import cases
from tests.triton import bits

KINDS = ("signs", "onebit", "mos", "planes")
precisions = st.sampled_from(PRECISIONS)
group_sizes = st.sampled_from((-1, 32, 64, 128, 160, 256))


@given(
    n=cases.sizes,
    k=cases.sizes,
    m=st.integers(1, 9),
    seed=cases.seeds,
    stored=st.integers(1, 8),
    drop=st.integers(0, 7),
    activation_bits=st.integers(0, 8),
    group_size=group_sizes,
    precision=precisions,
)
@example(n=5, k=32768 + 64, m=2, seed=1, stored=8, drop=0, activation_bits=8, group_size=-1, precision="fast")
@example(n=3, k=65536 + 64, m=1, seed=1, stored=4, drop=0, activation_bits=0, group_size=-1, precision="high")
@settings(max_examples=24)
def test_planes_bits(n, k, m, seed, stored, drop, activation_bits, group_size, precision):
    """Every weight width, truncation and activation width."""
    active = max(1, stored - drop)
    layer = bits.make(
        "planes", n, k, seed, bits=stored, group_size=group_size, one_bit_digits=active < stored
    )
    x = cases.activations(m, k, torch.float32, seed)
    choice = {"active_bits": active, "activation_bits": activation_bits}
    cases.check(layer, x, layer.native(x, precision, **choice), precision, **choice)


@pytest.mark.parametrize(("tokens", "precision"), [(2, "high"), (6, "high"), (6, "fast")])
@pytest.mark.parametrize(
    ("stored", "group_size", "k", "offsets"),
    [
        (1, 128, 1024, True),
        (2, 128, 1536, True),
        (3, 128, 1024, True),
        (4, 128, 1536, True),
        (2, 64, 1024, False),
        (4, 64, 768, True),
        (4, 64, 512, False),
        (4, 32, 768, False),
    ],
)
def test_scales_that_are_read_four_at_a_time(stored, group_size, k, offsets, tokens, precision):
    """And offsets, of rows of whole turns; the last row has nothing behind it."""
    layer = bits.make("planes", 70, k, stored, bits=stored, group_size=group_size)
    if not offsets:
        layer.packed = bits.without_offsets(layer.packed)
    x = cases.activations(tokens, k, torch.float16, stored)
    crowded = stored in (1, 3) and tokens == 6 and precision == "high"
    assert reads_four(layer, x, precision) != crowded
    cases.check(layer, x, layer.native(x, precision), precision)


def reads_four(layer, x, precision):
    with dry_run() as launches:
        layer.native(x, precision)
    return launches[1].options["QUADS"]


@pytest.mark.parametrize(
    ("stored", "group_size", "k"),
    [
        (4, 128, 768),
        (2, 128, 1280),
        (3, 128, 1536),
        (4, 64, 640),
        (2, 32, 1024),
        (1, 64, 1024),
        (4, 256, 1024),
    ],
)
def test_scales_that_are_read_one_by_one(stored, group_size, k):
    """Rows of no whole turns, turns of parts of blocks, groups of several units."""
    layer = bits.make("planes", 5, k, stored, bits=stored, group_size=group_size)
    x = cases.activations(2, k, torch.float16, stored)
    assert not reads_four(layer, x, "high")
    cases.check(layer, x, layer.native(x, "high"), "high")


@pytest.mark.parametrize("name", ["scales", "offsets"])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_scales_that_do_not_start_at_eight_bytes_are_read_one_by_one(name, first):
    layer = bits.make("planes", 5, 512, 1, bits=4, group_size=128)
    x = cases.activations(2, 512, torch.float16, 1)
    y = layer.native(x, "high")
    assert reads_four(layer, x, "high")
    values = layer.packed.tensors()[name]
    moved = torch.cat([values.new_zeros(first), values.flatten()])[first:].view_as(values)
    layer.packed = replace(layer.packed, **{name: moved})
    assert not reads_four(layer, x, "high")
    assert bits.same_bits(layer.native(x, "high"), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_of_scales_over_whole_spans(dtype):
    layer = bits.make("planes", 70, 1024, 3, bits=4, group_size=128)
    layer.packed = replace(layer.packed, scales=layer.packed.scales.to(dtype))
    x = cases.activations(3, 1024, torch.float16, 4)
    assert reads_four(layer, x, "high") == (dtype != torch.float32)
    cases.check(layer, x, layer.native(x, "high"), "high")


def test_a_group_size_without_groups():
    """One-bit weights with scales of whole rows may carry any group size."""
    layer = bits.make("onebit", 70, 1024, 5)
    layer.packed = replace(layer.packed, group_size=128)
    x = cases.activations(2, 1024, torch.float16, 6)
    cases.check(layer, x, layer.native(x, "fast"), "fast")


@pytest.mark.parametrize("tokens", [3, 9])
@pytest.mark.parametrize("k", [1, 128, 300, 2100])
def test_whole_rows_in_fast(tokens, k):
    """Magnitudes at the ends of float32, a group that outweighs all others, one input in each group."""
    layer = bits.make("onebit", 40, k, 3, bias=False)
    layer.packed = replace(layer.packed, in_scales=torch.ones_like(layer.packed.in_scales))
    x = cases.activations(tokens, k, torch.float32, 7)
    x[0, 130:] *= 2e-5
    x[1, : k - 40] *= 3e4
    sparse = torch.zeros_like(x[2])
    sparse[::128] = x[2, ::128]
    x[2] = sparse
    y = layer.native(x, "fast")
    cases.check(layer, x, y, "fast")
    for factor in (2.0**100, 2.0**-100):
        assert torch.equal(layer.native(x * factor, "fast"), y * factor)


@pytest.mark.parametrize(("stored", "tokens"), [(1, 3), (1, 9), (2, 9), (4, 9)])
@pytest.mark.parametrize(("k", "group_size"), [(1, 128), (300, 128), (1024, 128), (2100, 256)])
def test_groups_in_fast(stored, tokens, k, group_size):
    """The same with scales inside the row; one of them outweighs all others."""
    layer = bits.make("planes", 70, k, 3, bits=stored, bias=False, group_size=group_size)
    layer.packed = bits.without_offsets(layer.packed)
    # Half the rows have values of +-1 alone, whose bound is the tightest.
    layer.packed.weight[1:, ::2] = ~layer.packed.weight[:1, ::2]
    layer.packed.scales[:, -1] *= 300
    x = cases.activations(tokens, k, torch.float32, 7)
    x[0, 130:] *= 2e-5
    sparse = torch.zeros_like(x[2])
    sparse[::128] = x[2, ::128]
    x[2] = sparse
    x[1, 0] = float("nan")
    y = layer.native(x, "fast")
    assert bool(y[1].isnan().all())
    live = torch.arange(tokens) != 1
    cases.check(layer, x[live], y[live], "fast")
    for factor in (2.0**90, 2.0**-90):
        assert torch.equal(layer.native(x[live] * factor, "fast"), y[live] * factor)


@pytest.mark.parametrize(("stored", "k"), [(1, 1025), (2, 513), (4, 257)])
def test_one_input_in_a_short_last_group_in_fast(stored, k):
    """Whose scale outweighs all others: nothing is as small beside what sums start from.

    The last group is the first field of its word, where starts do not hold all that its digits lack.
    """
    layer = bits.make("planes", 8, k, 3, bits=stored, bias=False)
    layer.packed = bits.without_offsets(layer.packed)
    layer.packed.weight[1:] = ~layer.packed.weight[:1]  # values of +-1
    layer.packed.scales[:, :-1] *= 1e-3
    x = torch.zeros(16, k)
    x[:, -1] = 1 + torch.rand(16, generator=cases.generator(k))
    cases.check(layer, x, layer.native(x, "fast"), "fast")


@pytest.mark.parametrize(
    ("stored", "one_bit_digits", "group_size"),
    [
        (1, False, -1),
        (2, False, 128),
        (3, False, 64),
        (4, False, 128),
        (7, False, -1),
        (8, False, 32),
        (3, True, 128),
        (8, True, -1),
    ],
)
def test_one_hot_inputs_read_the_weight(stored, one_bit_digits, group_size):
    layer = bits.make(
        "planes",
        9,
        1100,
        stored,
        bits=stored,
        bias=False,
        one_bit_digits=one_bit_digits,
        group_size=group_size,
    )
    weight = layer.packed.dequantize()
    some = [0, 1, 127, 128, 255, 256, 511, 700, 896, 1023, 1024, 1099]
    assert torch.equal(layer.native(torch.eye(1100)[some], "exact"), weight[:, some].T)


def test_digits_of_several_bits_cannot_be_cut():
    layer = bits.make("planes", 5, 40, bits=6)
    x = cases.activations(1, 40, torch.float32)
    for precision in PRECISIONS:
        cases.check(layer, x, layer.native(x, precision, active_bits=4), precision, active_bits=4)
    with pytest.raises(ValueRangeError, match="active_bits"):
        layer.native(x, "high", active_bits=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_does_not_depend_on_the_batch(kind, precision):
    """M = 1..16, over the splits of a row; by 8 and by 16 columns."""
    k = 1300 if precision == "exact" else 2100  # rows of one bit are not split below that
    layer = bits.make(kind, 40, k, 3)
    x = cases.activations(16, k, torch.float32, 3)
    together = layer.native(x, precision)
    cases.check(layer, x, together, precision)
    for part in (slice(0, 1), slice(2, 7), slice(7, 16)):
        assert bits.same_bits(together[part], layer.native(x[part], precision))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_tokens(kind, precision):
    layer = bits.make(kind, 130, 300, 3)
    x = cases.activations(33, 300, torch.float16, 3)
    cases.check(layer, x, layer.native(x, precision), precision)


@given(
    parts=st.lists(st.sampled_from((1, 5, 64, 128, 129, 200)), min_size=1, max_size=4),
    k=st.sampled_from((131, 1100)),
    m=st.integers(1, 5),
    seed=cases.seeds,
    kind=st.sampled_from(("signs", "onebit", "mos")),
    precision=precisions,
)
@settings(max_examples=10)
def test_segments_are_the_layers_apart(parts, k, m, seed, kind, precision):
    """Fused sibling layers give what each gives alone: in integers bit for bit, else within the bound.

    How a row of floats is split depends on how many rows there are.
    """
    layers = [bits.make(kind, n, k, seed + i) for i, n in enumerate(parts)]
    x = cases.activations(m, k, torch.float32, seed)
    arguments = [layer.arguments(precision) for layer in layers]
    blocks, scales, router, in_scales, out_scales, bias = zip(*(a[:6] for a in arguments), strict=True)

    def joined(tensors, join, dim):
        return None if tensors[0] is None else join(list(tensors), dim)

    packed = layers[0].packed
    assert isinstance(packed, Signs)
    arguments = SignsArguments(
        x,
        torch.cat(blocks, 2),
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
    for layer, y in zip(layers, signs_linear(arguments).split(parts, dim=1), strict=True):
        cases.check(layer, x, y, precision)
        if precision == "high" and kind != "signs":
            assert torch.equal(y, layer.native(x, precision))
