"""What the interpreted prologue writes, against the public quantisers, bit for bit."""

from __future__ import annotations

import pytest
import torch
from lowbit.formats import quantize_activations, quantize_bipolar
from lowbit.triton_kernels.bits import subnormal
from lowbit.triton_kernels.bits.staging import Kind, stage

from tests.ops import cases
from tests.triton import bits

KINDS = [Kind(0, 0), Kind(1, 0), *(Kind(0, activation_bits) for activation_bits in range(1, 9))]


def staged_by(*arguments):
    columns, call = stage(*arguments)
    call.run()
    return columns


def expected(z, kind):
    if kind.bits:
        return quantize_bipolar(z, kind.bits)
    return quantize_activations(z, "fast" if kind.by_groups else "high")


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("k", [1, 130, 1025])
def test_codes_and_scales(kind, k):
    check_codes_and_scales(kind, k)


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_tokens_of_several_blocks(kind):
    check_codes_and_scales(kind, 5000)


def check_codes_and_scales(kind, k):
    layer = bits.make("onebit", 3, k, scale_dtype=torch.float32)
    x = cases.activations(4, k, torch.float16, 5, "every second")
    x[1, k // 2] = float("nan")
    x[2] = 0
    staged = staged_by(x, layer.staged(), kind, 0, not kind.by_groups)
    quantized = expected(x.float() * layer.packed.in_scales, kind)
    columns = staged.codes[0].reshape(4, kind.columns, -1).long()
    codes = columns[:, 0] if kind.columns == 1 else 256 * columns[:, 0] + columns[:, 1]
    assert torch.equal(codes[:, :k], quantized.codes.long())
    assert not codes[:, k:].any()
    scales = staged.token_scales[0]
    groups = quantized.scales.shape[1]
    assert bits.same_bits(scales[:, :groups], quantized.scales)
    assert torch.equal(scales[:, groups:].nan_to_num(), torch.zeros_like(scales[:, groups:]))
    if not kind.by_groups:
        assert torch.equal(staged.sums[0, :, 0], codes.sum(dim=1))


def test_ties_round_to_even():
    """With a largest magnitude of 127 the steps of `fast` are the values themselves."""
    x = torch.zeros(1, 128)
    halves = torch.arange(-60, 60) + 0.5
    x[0, :120], x[0, 127] = halves, 127.0
    staged = staged_by(x, bits.make("signs", 3, 128).staged(), Kind(0, 0), 0, False)
    assert torch.equal(staged.codes[0, 0, :120].float(), halves.round())


@pytest.mark.parametrize("experts", [2, 3, 4, 7])
def test_gates(experts):
    layer = bits.make("mos", 3, 1500)
    packed = layer.packed
    generator = cases.generator(1)
    shape = (experts, 1500)
    router = torch.randn(shape, generator=generator) * 0.1
    staged_layer = layer.staged()._replace(
        router=router, in_scales=torch.rand(shape, generator=generator), out_scales=torch.ones(experts, 3)
    )
    x = cases.activations(5, 1500, torch.bfloat16, 2)
    staged = staged_by(x, staged_layer, Kind(2, 0), 0, False)
    gates = torch.softmax(x.double() @ router.double().T, dim=-1)
    torch.testing.assert_close(staged.gates[0].double(), gates, rtol=1e-5, atol=1e-7)
    z = x.double() * (gates @ staged_layer.in_scales.double())
    torch.testing.assert_close(staged.codes[0, :, :1500].double(), z, rtol=1e-5, atol=1e-6)
    assert packed.experts == 4


@pytest.mark.parametrize("k", [130, 2100])
def test_scales_of_whole_rows_in_fast(k):
    """Scales of fields by a power of their token, and what the starts of the sums of four fields add."""
    tokens = 17
    layer = bits.make("onebit", 3, k, scale_dtype=torch.float32)
    x = cases.activations(tokens, k, torch.float32, 5)
    x[3] = 0
    x[4] *= 1e30
    x[16] *= 1e-30
    staged = staged_by(x, layer.staged(), KINDS[0], 0, False, True).token_scales
    scales = quantize_activations(x * layer.packed.in_scales, "fast").scales.double()
    spans = -(-k // 1024)
    scales = torch.nn.functional.pad(scales, (0, 8 * spans - scales.shape[1])).view(tokens, spans, 8)
    powers, found = staged[:tokens].double(), staged[2 * subnormal.TILE :].double()
    found = found.view(2, spans, 10, subnormal.TILE).movedim(-1, 1).flatten(0, 1)[:tokens]
    field = torch.arange(8)
    expected = scales / powers[:, None, None] * torch.exp2(132.0 - field.double())
    assert torch.equal(found[:, :, :8], expected)
    added = (expected * torch.exp2(15.0 + field // 2 * 2)).view(tokens, spans, 2, 4).sum(-1) * 2.0**-149
    torch.testing.assert_close(found[:, :, 8:], added, rtol=2e-7, atol=0)
    live = torch.arange(tokens) != 3
    assert bool((found[live, :, :8] < 2.0**127).all())
    largest = x.abs().amax(1).double()[live] / powers[live]
    assert bool(((largest > 0.1) & (largest < 40)).all())


@pytest.mark.parametrize("k", [130, 2100])
@pytest.mark.parametrize("stored", [1, 2, 4])
def test_scales_and_rests_of_groups_in_fast(stored, k):
    """A rest and a start are what the sum lacks, and the start keeps sums from being negative."""
    tokens = 17
    layer = bits.make("planes", 3, k, bits=stored, group_size=128)
    x = cases.activations(tokens, k, torch.float32, 5)
    x[3] = 0
    x[4] *= 1e30
    x[5] = 1
    x[6] = -1
    staged = staged_by(x, layer.staged(), KINDS[0], 128, False, True)
    assert staged.rests is staged.sums is None
    quantised = quantize_activations(x, "fast")
    spans = -(-k // 1024)
    scales = torch.nn.functional.pad(quantised.scales.double(), (0, 8 * spans - quantised.scales.shape[1]))
    powers, found = staged.token_scales.split([32, 32 * 24 * spans])
    found = found.view(2, spans, 3, 8, subnormal.TILE).movedim(-1, 1).flatten(0, 1)[:tokens]
    field = torch.arange(8) % (8 // stored)
    counts = torch.exp2(stored * field.double())
    own = scales.view(tokens, spans, 8) / powers[:tokens, None, None].double()
    assert torch.equal(found[:, :, 0].double(), own * 2.0**132 / counts)
    codes = staged.codes[0].double().view(tokens, spans, 8, 128)
    topmost = field == 8 // stored - 1
    lacking = codes.sum(-1) * torch.where(topmost, 0.5, 0.5 - 2 ** (stored - 1))
    digits = 2**stored - 1
    largest = digits * codes.abs().sum(-1)  # twice any product
    power = torch.exp2(largest.clamp(min=1).log2().floor()) * (largest > 0)
    start = found[:, :, 2].contiguous().view(torch.int32).double()
    assert torch.equal(start, counts * power + (counts * lacking).floor())
    error = found[:, :, 1].double() - (lacking - start / counts) * 2.0**-17 * own
    assert bool((error.abs() <= 2.0**-24 * power * 2.0**-17 * own).all())
    lowest = torch.where(topmost, -(2 ** (stored - 1)), 0) * codes.clamp(min=0).sum(-1)
    lowest += torch.where(topmost, digits - 2 ** (stored - 1), digits) * codes.clamp(max=0).sum(-1)
    assert bool((start + counts * lowest >= 0).all())
