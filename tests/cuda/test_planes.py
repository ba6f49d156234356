"""Family planes on the emulated device: 1 to 8 bits, active bits, offsets, quantised activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS, Planes, quantize_bipolar
from lowbit.formats.bits import unpack_codes
from torch import Tensor

from tests.cuda.bits import A100, H100, DeviceBits, describe, digits_of, last_error, reference, sizes
from tests.emulated.device import Device, DeviceError, load
from tests.ops.cases import DTYPES, Layer, activations, check, make

PLANS = ("packed", "planes")


def ends(bits: int, plan: str) -> list[int]:
    """The active bits that a plan allows."""
    widths = digits_of(bits, plan)
    return [sum(widths[: d + 1]) for d in range(len(widths))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(emulated: Device, bits: int, plan: str, precision: str) -> None:
    for n, k, m, group_size in ((19, 77, 2, 32), (33, 300, 3, 128), (17, 1100, 1, -1)):
        subject = make("planes", n, k, bits, bits=bits, group_size=group_size)
        x = activations(m, k, torch.float32, seed=bits)
        check(subject, x, DeviceBits(emulated, subject, digits=plan)(x, precision), precision)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
def test_active_bits(emulated: Device, bits: int, plan: str) -> None:
    """Any prefix of the code that ends with a digit is a weight; nothing is packed again."""
    for group_size in (-1, 32, 128):
        subject, x = (
            make("planes", 18, 150, bits=bits, group_size=group_size),
            activations(2, 150, torch.float32),
        )
        device_layer = DeviceBits(emulated, subject, digits=plan)
        for active_bits in ends(bits, plan):
            for precision in PRECISIONS:
                y = device_layer(x, precision, active_bits=active_bits)
                check(subject, x, y, precision, active_bits=active_bits)


def test_active_bits_inside_a_digit() -> None:
    device = load("lowbit_emulated")
    subject = DeviceBits(device, make("planes", 16, 64, bits=7))
    for active_bits in (1, 5, 8):
        with pytest.raises(DeviceError):
            subject(torch.ones(1, 64), "high", active_bits=active_bits)
        assert last_error(device) == (
            f"active_bits is {active_bits}; allowed: 4, 6, 7, where a digit of the weight ends"
        )


@pytest.mark.parametrize("m", [1, 2, 5, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tokens(emulated: Device, m: int, precision: str) -> None:
    for bits, group_size in ((4, 128), (3, 32), (2, -1)):
        subject = make("planes", 35, 300, bits=bits, group_size=group_size)
        x = activations(m, 300, torch.float16, seed=m)
        check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale_dtype", DTYPES, ids=str)
def test_dtypes(emulated: Device, dtype: torch.dtype, scale_dtype: torch.dtype) -> None:
    for group_size in (32, 128, -1):
        subject = make("planes", 18, 270, bits=4, group_size=group_size, scale_dtype=scale_dtype)
        x = activations(2, 270, dtype)
        for precision in PRECISIONS:
            check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


def integer_product(
    packed: Planes, x: Tensor, activation_bits: int, active_bits: int
) -> tuple[Tensor, Tensor]:
    """Codes times codes, exact, and the scales of tokens."""
    quantized = quantize_bipolar(x, activation_bits)
    codes = unpack_codes(packed.weight[:active_bits], packed.in_features).long()
    values = (2 * codes - (2**active_bits - 1)) * 2 ** (packed.bits - active_bits)
    if packed.offsets is not None:
        values = values + packed.offsets.long()
    return quantized.codes.long() @ values.T, quantized.scales


def ones(n: int, k: int, bits: int, offsets: bool = False, seed: int = 0) -> Layer:
    """Whole rows with scale 1."""
    made = make("planes", n, k, seed, bits=bits, group_size=-1, bias=False, scale_dtype=torch.float32)
    packed = made.packed
    assert isinstance(packed, Planes)
    scales = torch.ones_like(packed.scales)
    return Layer(Planes(packed.weight, scales, k, -1, packed.offsets if offsets else None), None)


@pytest.mark.parametrize("gpu", [H100, A100], ids=["int8", "one bit"])
@pytest.mark.parametrize("activation_bits", range(1, 9))
def test_integers_are_exact(emulated: Device, activation_bits: int, gpu: interface.Device) -> None:
    """Every product of whole rows is one rounding away from the integer: scale of the token times sum."""
    for bits in (1, 2, 4, 8):
        subject = ones(18, 1100, bits, offsets=True)
        x = activations(1 if activation_bits > 6 else 2, 1100, torch.float32, seed=bits)
        device_layer = DeviceBits(emulated, subject, digits="planes", gpu=gpu)
        kernel = device_layer.explain(x.shape[0], "exact", activation_bits=activation_bits)["kernel"]
        assert kernel == ("b1_gemv" if gpu is A100 else "imma_gemv")
        for active_bits in {1, bits}:
            packed = subject.packed
            assert isinstance(packed, Planes)
            sums, scales = integer_product(packed, x, activation_bits, active_bits)
            y = device_layer(x, "exact", active_bits=active_bits, activation_bits=activation_bits)
            found = (y.double() / scales.double()).round().long()
            # A sum of up to 24 bits comes out whole; of more, to the last bit of fp32.
            assert bool(((found - sums).abs() <= sums.abs() * 2.0**-22).all())


@pytest.mark.parametrize("activation_bits", range(1, 9))
def test_activation_bits(emulated: Device, activation_bits: int) -> None:
    for bits, group_size in ((1, -1), (3, 32), (4, 128)):
        subject = make("planes", 20, 200, bits=bits, group_size=group_size)
        for m in (2, 18):
            x = activations(m, 200, torch.float16, seed=m)
            y = DeviceBits(emulated, subject)(x, "exact", activation_bits=activation_bits)
            check(subject, x, y, "exact", activation_bits=activation_bits)


def test_binary_by_binary_counts_exactly(emulated: Device) -> None:
    """W1A1 of a fully binarised layer: sums of +1 and -1."""
    subject, x = ones(40, 515, 1), torch.randn(8, 515).sign()
    for gpu in (A100, H100):
        y = DeviceBits(emulated, subject, gpu=gpu)(x, "exact", activation_bits=1)
        assert torch.equal(y, x @ subject.packed.dequantize().T)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rows_have_the_same_bits_for_every_number_of_tokens(
    emulated: Device, bits: int, precision: str
) -> None:
    for group_size in (-1, 128):
        subject = DeviceBits(emulated, make("planes", 33, 2100, bits=bits, group_size=group_size))
        x = activations(16, 2100, torch.float32)
        together = subject(x, precision)
        for m in (1, 8, 9):
            assert torch.equal(subject(x[:m], precision), together[:m])


@pytest.mark.parametrize("gpu", [H100, A100], ids=["int8", "one bit"])
def test_non_finite_token(emulated: Device, gpu: interface.Device) -> None:
    subject = make("planes", 20, 140, bits=2, group_size=-1)
    x = activations(3, 140, torch.float32)
    x[2, 5] = float("-inf")
    device_layer = DeviceBits(emulated, subject, digits="planes", gpu=gpu)
    y = device_layer(x, "exact", activation_bits=2)
    assert bool(y[2].isnan().all())
    check(subject, x[:2], y[:2], "exact", activation_bits=2)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_restored_as_it_was(emulated: Device, bits: int, plan: str) -> None:
    for n, k, group_size in ((1, 1, -1), (17, 1030, 32), (40, 384, 128), (9, 500, 256)):
        packed = make("planes", n, k, bits=bits, group_size=group_size).packed
        assert isinstance(packed, Planes)
        restored = DeviceBits(emulated, Layer(packed, None), digits=plan).restored()
        for ours, theirs in zip(restored, (packed.weight, packed.scales, packed.offsets), strict=True):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours, theirs)


@settings(max_examples=20)
@given(
    bits=st.integers(1, 8),
    plan=st.sampled_from(PLANS),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    m=st.integers(0, 18),
    group_size=st.sampled_from((-1, 32, 64, 128, 384)),
    activation_bits=st.integers(0, 8),
    precision=st.sampled_from(PRECISIONS),
    gpu=st.sampled_from([(90, 132), (80, 108)]),
    data=st.data(),
)
def test_any_shape(
    bits: int,
    plan: str,
    n: int,
    k: int,
    m: int,
    group_size: int,
    activation_bits: int,
    precision: str,
    gpu: tuple[int, int],
    data: Any,
) -> None:
    device = load("lowbit_emulated")
    seed = data.draw(st.integers(0, 2**31 - 1))
    active_bits = data.draw(st.sampled_from(ends(bits, plan)))
    subject, x = (
        make("planes", n, k, seed, bits=bits, group_size=group_size),
        activations(m, k, torch.float32, seed),
    )
    device_layer = DeviceBits(device, subject, digits=plan, gpu=interface.Device(*gpu))
    y = device_layer(x, precision, active_bits=active_bits, activation_bits=activation_bits)
    check(subject, x, y, precision, active_bits=active_bits, activation_bits=activation_bits)


def test_errors() -> None:
    device = load("lowbit_emulated")
    with pytest.raises(DeviceError):
        sizes(device, describe(16, 64, (4, 4, 1)))
    assert last_error(device) == "weight has 9 bits; allowed: 1 to 8"
    subject = DeviceBits(device, make("planes", 16, 64, bits=4))
    for arguments, sentence in (
        ({"activation_bits": 9}, "activation_bits is 9; allowed: 0 to 8"),
        ({"activation_bits": -1}, "activation_bits is -1; allowed: 0 to 8"),
        ({"active_bits": 2}, "active_bits is 2; allowed: 4, where a digit of the weight ends"),
    ):
        with pytest.raises(DeviceError):
            subject(torch.ones(1, 64), "high", **arguments)  # type: ignore[arg-type]
        assert last_error(device) == sentence
    with pytest.raises(DeviceError):
        device.run("lowbit_cuda_repack_bits", reference(subject.structs[0].bits), None, None, 0)
    assert last_error(device) == "planes is a null pointer"
    bits = subject.structs[0].bits
    bits.scales = None
    with pytest.raises(DeviceError):
        subject(torch.ones(1, 64), "high")
    assert last_error(device) == "weight has group_size 128 and offsets, but scales is a null pointer"
