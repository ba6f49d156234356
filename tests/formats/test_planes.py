"""Bit planes: code values, nesting, integer import, exact integer products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import Planes, pack_codes, planes_from_integers, quantize_bipolar, unpack_codes

from tests.formats.samples import K, N, floats, planes


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_odd_and_symmetric(bits: int) -> None:
    codes = torch.arange(2**bits)[None]
    packed = Planes(pack_codes(codes, bits), torch.ones(1, 1), 2**bits, -1)
    values = packed.dequantize()[0].tolist()
    assert values == list(range(-(2**bits) + 1, 2**bits, 2))
    by_plane = sum((2 * (codes >> i & 1) - 1) * 2**i for i in range(bits))
    assert values == by_plane[0].tolist()


@given(bits=st.integers(1, 8), active=st.integers(1, 8), asymmetric=st.booleans(), k=st.integers(1, 90))
def test_first_planes_are_a_valid_weight(bits: int, active: int, asymmetric: bool, k: int) -> None:
    active = min(active, bits)
    packed = planes(5, k, bits, 32, asymmetric)
    first = Planes(packed.weight[:active], torch.ones(5, packed.scales.shape[1]), k, 32)
    values = first.dequantize() * 2 ** (bits - active)
    if packed.offsets is not None:
        values += packed.offsets.float().repeat_interleave(32, 1)[:, :k]
    expected = values * packed.scales.float().repeat_interleave(32, 1)[:, :k]
    assert torch.equal(packed.dequantize(active), expected)
    assert torch.equal(packed.rows(torch.tensor([2]), active), expected[2:3])
    assert torch.equal(packed.linear(torch.eye(k), active_bits=active).T, expected)


@given(
    bits=st.integers(1, 8),
    group_size=st.sampled_from([-1, 32, 64]),
    k=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_integer_import_is_loss_free(bits: int, group_size: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if group_size == -1 else -(-k // group_size)
    codes = torch.randint(0, 2**bits, (3, k), generator=generator)
    zeros = torch.randint(0, 2**bits, (3, groups), generator=generator)
    scales = floats(3, groups, seed=seed)
    packed = planes_from_integers(codes, scales, zeros, bits, group_size)
    width = k if group_size == -1 else group_size
    spread = torch.arange(k) // width
    expected = scales.float()[:, spread] * (codes - zeros[:, spread])
    assert torch.equal(packed.dequantize(), expected)
    assert torch.equal(unpack_codes(packed.weight, k).long(), codes)
    assert torch.equal(packed.offsets.long(), 2**bits - 1 - 2 * zeros)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bits": 9}, ValueRangeError, "unsupported bits; found 9; allowed 1..8"),
        ({"bits": 2}, ValueRangeError, "codes out of range; found 0..15; allowed 0..3"),
        ({"group_size": 16}, ValueRangeError, "unsupported group_size; found 16; allowed -1"),
        ({"codes": torch.ones(3)}, ShapeError, "wrong shape of 'codes'; found [3]"),
        ({"codes": torch.ones(2, 64)}, DtypeError, "wrong dtype of 'codes'; found torch.float32"),
        ({"scales": torch.ones(2, 3)}, ShapeError, "wrong shape of 'scales'; found [2, 3]; allowed [2, 2]"),
        ({"scales": torch.ones(2, 2).double()}, DtypeError, "wrong dtype of 'scales'; found float64"),
        ({"scales": torch.full((2, 2), 6e-8).half()}, ValueRangeError, "cannot be halved without loss"),
        ({"zeros": torch.full((2, 2), 20000)}, ValueRangeError, "zero points out of range"),
    ],
)
def test_integer_import_refusals(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "codes": torch.arange(128).view(2, 64) % 16,
        "scales": torch.ones(2, 2, dtype=torch.float16),
        "zeros": torch.full((2, 2), 8),
        "bits": 4,
        "group_size": 32,
    }
    with pytest.raises(error) as caught:
        planes_from_integers(**{**arguments, **change}, layer="a.b")  # type: ignore[arg-type]
    assert str(caught.value).startswith("layer 'a.b': ")
    assert message in str(caught.value)


@pytest.mark.parametrize("activation_bits", range(1, 9))
@pytest.mark.parametrize("weight_bits", [1, 3, 8])
def test_bipolar_products_are_integers(weight_bits: int, activation_bits: int) -> None:
    """sum_ij 2^(i+j) (4 popc(x_i & w_j) - 2 popc(x_i) - 2 popc(w_j) + K), scaled."""
    packed = planes(bits=weight_bits, group_size=-1)
    x = torch.randn(3, K)
    quantized = quantize_bipolar(x, activation_bits)
    x_codes = (quantized.codes.long() + 2**activation_bits - 1) // 2
    w_codes = unpack_codes(packed.weight, K).long()
    total = torch.zeros(3, N, dtype=torch.int64)
    for i in range(activation_bits):
        for j in range(weight_bits):
            x_bit, w_bit = x_codes >> i & 1, w_codes >> j & 1
            both = (x_bit[:, None] & w_bit[None]).sum(-1)
            popcounts = 4 * both - 2 * x_bit.sum(-1)[:, None] - 2 * w_bit.sum(-1) + K
            total += 2 ** (i + j) * popcounts
    expected = total * quantized.scales.double() * packed.scales.double().T
    found = packed.linear(x.double(), activation_bits=activation_bits)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_active_bits_are_checked() -> None:
    for active in (0, 5):
        with pytest.raises(ValueRangeError, match=rf"active_bits; found {active}; allowed 1\.\.4"):
            planes().linear(torch.ones(1, K), active_bits=active)


def test_bits_per_weight() -> None:
    assert planes(64, 128, 4, 32).bits_per_weight == 4 + 16 / 32
    assert planes(64, 128, 4, 64, asymmetric=True).bits_per_weight == 4 + (16 + 16) / 64
    assert planes(64, 128, 3, -1).bits_per_weight == 3 + 16 / 128
    # 77 inputs: 10 bytes a plane and three groups.
    assert planes(N, K, 2, 32).bits_per_weight == pytest.approx((2 * 80 + 3 * 16) / 77)
