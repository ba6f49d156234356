"""Interpreted Triton kernel of `signs` and `planes` for many tokens."""

from __future__ import annotations

import pytest
import torch
from lowbit.backends.arguments import SignsArguments
from lowbit.formats import PRECISIONS, Signs
from lowbit.triton_kernels.bits.config import GEMV_TOKENS, Product, config
from lowbit.triton_kernels.gpu import Gpu, assume
from lowbit.triton_kernels.launch import dry_run
from lowbit.triton_kernels.signs import signs_linear

from tests.ops import cases
from tests.triton import bits

H100, A100, MI300 = Gpu(132, capability=(9, 0)), Gpu(108, capability=(8, 0)), Gpu(304, amd=True)


def kernels(layer, tokens, k, precision, **choice):
    with dry_run() as launches:
        layer.native(torch.zeros(tokens, k), precision, **choice)
    return [str(launch) for launch in launches]


@pytest.mark.parametrize(
    ("stored", "group_size", "n", "k", "tokens", "precision", "offsets", "gpu"),
    [
        (1, 128, 130, 1100, 33, "high", True, A100),  # two row tiles, two splits, two column tiles
        (1, -1, 9, 300, 33, "fast", False, A100),
        (2, 32, 5, 333, 33, "fast", True, A100),  # scales inside the inputs of a field
        (2, 160, 5, 333, 17, "high", False, A100),  # across fields
        (3, 128, 65, 300, 66, "fast", True, H100),  # digits of two widths
        (4, 128, 66, 300, 129, "fast", False, H100),
        (4, 64, 66, 200, 33, "high", False, H100),
        (7, 128, 5, 300, 33, "fast", False, A100),  # of three
        (8, 256, 5, 300, 33, "high", True, A100),
    ],
)
def test_planes(stored, group_size, n, k, tokens, precision, offsets, gpu):
    layer = bits.make("planes", n, k, stored, bits=stored, group_size=group_size)
    if not offsets:
        layer.packed = bits.without_offsets(layer.packed)
    x = cases.activations(tokens, k, torch.float16, stored)
    with assume(gpu):
        assert any(name.startswith("gemm") for name in kernels(layer, tokens, k, precision))
        y = layer.native(x, precision)
    cases.check(layer, x, y, precision)


@pytest.mark.parametrize("kind", ["onebit", "mos"])
@pytest.mark.parametrize(("precision", "tokens"), [("high", 17), ("fast", 33)])
def test_scales_of_inputs_and_outputs(kind, precision, tokens):
    layer = bits.make(kind, 70, 300, 3)
    x = cases.activations(tokens, 300, torch.float32, 3)
    assert any(name.startswith("gemm") for name in kernels(layer, tokens, 300, precision))
    cases.check(layer, x, layer.native(x, precision), precision)


@pytest.mark.parametrize(
    ("stored", "activation_bits", "one_bit_digits", "active"),
    [
        (1, 1, False, 1),
        (2, 3, False, 2),
        (4, 8, False, 4),
        (8, 8, False, 8),
        (3, 2, True, 2),
        (5, 0, False, 5),
    ],
)
def test_integers_are_those_of_few_tokens(stored, activation_bits, one_bit_digits, active):
    """Whole rows are summed in integers, so both kernels must agree bit for bit."""
    n, k = 9, 1100
    layer = bits.make("planes", n, k, stored, bits=stored, group_size=-1, one_bit_digits=bool(one_bit_digits))
    x = cases.activations(17 if activation_bits in (0, 8) else 33, k, torch.float32, stored)
    choice = {"active_bits": active, "activation_bits": activation_bits}
    assert any(name.startswith("gemm") for name in kernels(layer, len(x), k, "high", **choice))
    y = layer.native(x, "high", **choice)
    cases.check(layer, x, y, "high", **choice)
    assert bits.same_bits(y[-3:], layer.native(x[-3:], "high", **choice))


def test_sums_of_large_codes_fit():
    """Codes and activations at their ends, all of one sign: no digit's sum overflows beside the other's."""
    k = 8192
    layer = bits.make("planes", 3, k, 1, bits=8, group_size=-1, bias=False)
    layer.packed = bits.without_offsets(layer.packed)
    layer.packed.weight[:, 0], layer.packed.weight[:, 1] = 255, 0
    x = torch.ones(17, k)
    x[1] = -1
    with assume(Gpu(1)):  # in one program
        assert kernels(layer, 17, k, "high")[1:] == ["gemm 128x64"]
        y = layer.native(x, "high")
    cases.check(layer, x, y, "high")


def test_segments():
    parts, k = (5, 129), 140
    layers = [bits.make("mos", n, k, i) for i, n in enumerate(parts)]
    x = cases.activations(17, k, torch.float32, 1)
    arguments = [layer.arguments("high") for layer in layers]
    blocks, _, router, in_scales, out_scales, bias = zip(*(a[:6] for a in arguments), strict=True)
    assert isinstance(layers[0].packed, Signs)
    mixed = (torch.stack(router), torch.stack(in_scales), torch.cat(out_scales, 1))
    shape = (list(parts), k, sum(parts), -1, PRECISIONS.index("high"))
    fused = signs_linear(SignsArguments(x, torch.cat(blocks, 2), None, *mixed, torch.cat(bias), *shape))
    for layer, y in zip(layers, fused.split(parts, dim=1), strict=True):
        assert torch.equal(y, layer.native(x, "high"))


def test_a_token_that_is_not_finite():
    layer = bits.make("planes", 5, 300, bits=4, group_size=128)
    x = cases.activations(17, 300, torch.float32)
    x[7, 3] = torch.inf
    y = layer.native(x, "high")
    assert y[7].isnan().all()
    assert y.isfinite().sum() == 16 * 5


@pytest.mark.parametrize("form", ["integers", "scaled"])
@pytest.mark.parametrize("gpu", [H100, A100])
def test_when_and_how(form, gpu):
    for columns_per_token in (1, 2):
        for tokens in (1, GEMV_TOKENS, 17, 32, 33, 64, 65, 1000):
            plan = config(Product(form, (4096,), 4096, (1,), columns_per_token), tokens, gpu)
            assert (plan.kernel == "gemm") == (tokens > GEMV_TOKENS and tokens * columns_per_token > 32)
            if plan.kernel == "gemm":
                assert plan.block_columns >= min(64, tokens * columns_per_token)
    # A program for every multiprocessor, and no more than that by splitting.
    for n, splits in ((128, 16), (640, 16), (2048, gpu.multiprocessors // 16), (16384, 1)):
        plan = config(Product("integers", (n,), 16384, (1,), 1), 100, gpu)
        assert plan.splits == splits


@pytest.mark.parametrize(("gpu", "tile"), [(H100, (64, 128, 4)), (A100, (128, 64, 8)), (MI300, (64, 128, 4))])
@pytest.mark.parametrize(
    ("form", "columns_per_token", "widths", "offsets"),
    [("scaled", 1, (4, 4), False), ("scaled", 2, (4,), True), ("integers", 2, (4, 4), False)],
)
def test_tiles_where_sums_crowd_the_registers(gpu, tile, form, columns_per_token, widths, offsets):
    group_size = 128 if offsets else -1
    plan = config(Product(form, (4096,), 4096, widths, columns_per_token, group_size, offsets), 1000, gpu)
    assert (plan.block_rows, plan.block_columns, plan.warps) == tile
