"""The prologue: gates, mixed activations and their codes, against python/lowbit/formats, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowbit.formats import Signs, quantize_activations, quantize_bipolar
from torch import Tensor

from tests.cuda.bits import A100, H100, DeviceBits, Staged
from tests.emulated.device import Device, load
from tests.ops.cases import DTYPES, Layer, activations, make

K_SIZES = (1, 7, 8, 31, 33, 127, 129, 1000, 1024, 1025, 4096)


def quantised(z: Tensor, precision: str, bits: int) -> tuple[Tensor, Tensor]:
    found = quantize_bipolar(z, bits) if bits else quantize_activations(z, precision)
    return found.codes.long(), found.scales


def check_codes(staged: Staged, z: Tensor, precision: str, bits: int = 0) -> None:
    """[sets, M, K] fp32 activations, and what was staged of them."""
    codes, scales = quantised(z, precision, bits)
    assert torch.equal(staged.values, codes)
    assert bool((staged.padding == 0).all())
    assert staged.scales is not None
    if precision != "fast" or bits:
        # The same for every group of inputs, where a product wants them by group.
        scales = scales.expand(staged.scales.shape)
    groups = scales.shape[-1]
    assert torch.equal(staged.scales[..., :groups].nan_to_num(-1), scales.nan_to_num(-1))
    rest = staged.scales[..., groups:]
    assert bool(((rest == 0) | rest.isnan()).all())
    if staged.totals is not None:
        assert torch.equal(staged.totals, codes.sum(dim=-1))


def floats(device: Device, *layers: Layer, x: Tensor) -> Tensor:
    """The fp32 activations of every set, which `exact` multiplies."""
    staged = DeviceBits(device, *layers).stage(x, "exact")
    assert staged.form == "floats"
    return staged.values


def signs(
    k: int, group_size: int = -1, experts: int = 0, seed: int = 0, dtype: torch.dtype = torch.float16
) -> Layer:
    """One row: only the activations are of interest."""
    kind = {0: "signs", 1: "onebit"}.get(experts, "mos")
    layer = make(kind, 1, k, seed, group_size=group_size, scale_dtype=dtype, bias=False)
    if experts > 1 and experts != 4:
        rng = torch.Generator().manual_seed(seed)
        assert isinstance(layer.packed, Signs)
        tables = {
            name: (torch.randn(experts, k, generator=rng) * scale).to(dtype)
            for name, scale in (("router", 0.1), ("in_scales", 1.0))
        }
        layer.packed = replace(layer.packed, **tables, out_scales=torch.ones(experts, 1, dtype=dtype))
    return layer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", K_SIZES)
def test_plain_activations(emulated: Device, k: int, dtype: torch.dtype) -> None:
    layer, x = signs(k), activations(3, k, dtype, seed=k)
    z = x.float()[None]
    assert torch.equal(floats(emulated, layer, x=x), z)
    for precision in ("fast", "high"):
        staged = DeviceBits(emulated, layer).stage(x, precision)
        assert staged.form == "columns"
        check_codes(staged, z, precision)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("k", [1, 33, 129, 1030])
def test_bipolar_activations(emulated: Device, k: int, bits: int) -> None:
    x = activations(2, k, torch.float32, seed=bits)
    layer = make("planes", 1, k, bits=2, group_size=-1, bias=False)
    z = x.float()[None]
    for gpu, plan in ((H100, "columns"), (A100, "planes")):
        staged = DeviceBits(emulated, layer, digits="planes", gpu=gpu).stage(
            x[:1], "exact", activation_bits=bits
        )
        assert staged.form == plan
        check_codes(staged, z[:, :1], "exact", bits)
    grouped = make("planes", 1, k, bits=2, group_size=32, bias=False)
    check_codes(DeviceBits(emulated, grouped).stage(x, "exact", activation_bits=bits), z, "exact", bits)


@pytest.mark.parametrize("k", [5, 1024, 2000, 9000, 17000])
def test_sixteen_planes(emulated: Device, k: int) -> None:
    x = activations(1, k, torch.float16)
    staged = DeviceBits(emulated, signs(k), gpu=A100).stage(x, "high")
    assert staged.form == "planes"
    check_codes(staged, x.float()[None], "high")


@pytest.mark.parametrize(
    ("precision", "group_size", "unit"),
    [("fast", -1, 2048)]
    + [(p, g, u) for p in ("fast", "high") for g, u in ((128, 128), (256, 128), (32, 32), (96, 32))],
)
def test_sums_by_unit(emulated: Device, precision: str, group_size: int, unit: int) -> None:
    k = 1100
    x = activations(3, k, torch.float16)
    staged = DeviceBits(emulated, signs(k, group_size)).stage(x, precision)
    codes, scales = quantised(x.float(), precision, 0)
    by_input = scales.double().repeat_interleave(128 if precision == "fast" else k, dim=1)[:, :k]
    scaled = torch.nn.functional.pad(codes * by_input, (0, 2048 - k))
    # The constant of one bit is -1/2; the two columns of `high` share it as 256 c + c.
    constant = -0.5 if precision == "fast" else -0.5 / 257
    expected = constant * scaled.unflatten(1, (-1, unit)).sum(dim=-1)
    assert staged.sums is not None
    torch.testing.assert_close(staged.sums[0].double(), expected, rtol=1e-6, atol=1e-6)


def test_whole_rows_need_no_sums(emulated: Device) -> None:
    staged = DeviceBits(emulated, signs(300)).stage(activations(2, 300, torch.float32), "high")
    assert staged.sums is None
    assert staged.totals is not None


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 5, 8, 11, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_experts(emulated: Device, experts: int, dtype: torch.dtype) -> None:
    k, m = 333, 3
    layer, x = signs(k, experts=experts, seed=experts, dtype=dtype), activations(m, k, torch.float16)
    device_layer = DeviceBits(emulated, layer)
    exact = device_layer.stage(x, "exact")
    packed = layer.packed
    assert isinstance(packed, Signs)
    assert packed.in_scales is not None
    assert exact.gates is not None
    gates = packed.gates(x.double())
    torch.testing.assert_close(exact.gates[0].double(), gates, rtol=1e-5, atol=1e-7)
    z = x.double() * (gates @ packed.in_scales.double())
    torch.testing.assert_close(exact.values[0].double(), z, rtol=2e-5, atol=1e-5)
    for precision in ("fast", "high"):
        staged = device_layer.stage(x, precision)
        assert staged.gates is not None
        assert torch.equal(staged.gates, exact.gates)
        check_codes(staged, exact.values, precision)


def test_large_logits(emulated: Device) -> None:
    """Their maximum is subtracted before the exponential."""
    layer = signs(64, experts=4)
    packed = layer.packed
    assert isinstance(packed, Signs)
    assert packed.router is not None
    layer.packed = replace(packed, router=packed.router * 2000)
    gates = DeviceBits(emulated, layer).stage(activations(2, 64, torch.float32), "exact").gates
    assert gates is not None
    assert bool(gates.isfinite().all())
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(1, 2))


def test_segments_have_sets_of_their_own(emulated: Device) -> None:
    k = 200
    layers = [signs(k, experts=4, seed=1), signs(k, experts=1, seed=2), signs(k), signs(k, experts=4, seed=3)]
    x = activations(2, k, torch.bfloat16)
    together = DeviceBits(emulated, *layers[:2], layers[3]).stage(x, "high")
    for index, layer in enumerate((layers[0], layers[1], layers[3])):
        alone = DeviceBits(emulated, layer).stage(x, "high")
        assert torch.equal(together.values[index], alone.values[0])
    # Without experts there is one for all.
    assert DeviceBits(emulated, layers[2], layers[2]).stage(x, "high").values.shape[0] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [0, 77, 299])
def test_non_finite_token(emulated: Device, bad: float, where: int) -> None:
    k = 300
    x = activations(3, k, torch.float32)
    x[1, where] = bad
    for experts in (0, 4):
        layer = signs(k, experts=experts)
        for gpu, tokens in ((H100, slice(0, 3)), (A100, slice(1, 2))):
            for precision in ("fast", "high"):
                staged = DeviceBits(emulated, layer, gpu=gpu).stage(x[tokens], precision)
                token = 1 if gpu is H100 else 0
                assert staged.scales is not None
                assert bool(staged.scales[0, token].isnan().all())
                assert int(staged.values[0, token].abs().max()) == 0
                if gpu is H100:
                    assert bool(staged.scales[0, [0, 2]].isfinite().all())
        values = DeviceBits(emulated, layer).stage(x, "exact").values[0]
        assert bool(values[1].isnan().all())
        assert bool(values[[0, 2]].isfinite().all())


def test_zeros_and_the_smallest_numbers(emulated: Device) -> None:
    x = torch.zeros(4, 130)
    x[1, 3] = 1e-45
    x[2, 3], x[2, 129] = 1e-38, 3.0
    x[3] = 3e38
    layer = signs(130)
    for precision in ("fast", "high"):
        check_codes(DeviceBits(emulated, layer).stage(x, precision), x[None], precision)
    planes = make("planes", 1, 130, bits=1, group_size=-1, bias=False)
    for bits in (1, 2, 8):
        staged = DeviceBits(emulated, planes, digits="planes").stage(x, "exact", activation_bits=bits)
        check_codes(staged, x[None], "exact", bits)
        for m in range(4):
            staged = DeviceBits(emulated, planes, gpu=A100).stage(x[m : m + 1], "exact", activation_bits=bits)
            check_codes(staged, x[None, m : m + 1], "exact", bits)


def test_ties_round_to_even(emulated: Device) -> None:
    x = torch.arange(-127, 128).float() / 2
    x[0] = 127.0
    check_codes(DeviceBits(emulated, signs(255)).stage(x[None], "fast"), x[None, None], "fast")


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_the_number_of_tokens_plays_no_part(emulated: Device, precision: str) -> None:
    layer, x = signs(260, experts=4), activations(17, 260, torch.float16)
    device_layer = DeviceBits(emulated, layer)
    alone = device_layer.stage(x[4:5], precision)
    for m in (5, 17):
        together = device_layer.stage(x[:m], precision)
        assert torch.equal(together.values[:, 4:5], alone.values)
        for name in ("scales", "sums", "gates"):
            ours, theirs = getattr(together, name), getattr(alone, name)
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours[:, 4:5], theirs)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_tokens_longer_than_the_registers(experts: int, precision: str) -> None:
    """Above 16,384 inputs z is computed again where it is needed; below, it is kept: the same bits."""
    device = load("lowbit_emulated")
    k, short = 16400, 9000
    layer, x = signs(k, experts=experts), activations(1, k, torch.float16)
    long = DeviceBits(device, layer).stage(x, precision)
    if precision == "exact":
        packed = layer.packed
        assert isinstance(packed, Signs)
        z = x.double()
        if packed.in_scales is not None:
            z = z * (packed.gates(z) @ packed.in_scales.double())
        torch.testing.assert_close(long.values[0].double(), z, rtol=1e-4, atol=1e-4)
    else:
        check_codes(long, floats(device, layer, x=x), precision)
    if experts == 0:
        kept = DeviceBits(device, signs(short)).stage(x[:, :short], precision)
        check = (
            quantised(x[None, :, :short].float(), precision, 0)[0]
            if precision != "exact"
            else x[None, :, :short]
        )
        assert torch.equal(kept.values, check.to(kept.values.dtype))


@settings(max_examples=25)
@given(
    k=st.integers(1, 300),
    m=st.integers(1, 3),
    experts=st.sampled_from((0, 1, 2, 4)),
    dtype=st.sampled_from(DTYPES),
    gap=st.integers(0, 3),
    precision=st.sampled_from(("fast", "high")),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_shape(
    k: int, m: int, experts: int, dtype: torch.dtype, gap: int, precision: str, seed: int
) -> None:
    device = load("lowbit_emulated")
    layer = signs(k, experts=experts, seed=seed)
    # Rows at every alignment.
    x = activations(m, k + gap, dtype, seed)[:, gap:]
    check_codes(DeviceBits(device, layer).stage(x, precision), floats(device, layer, x=x), precision)
