"""Bit order, padding and code planes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.errors import ValueRangeError
from lowbit.formats import check_padding, pack_bits, pack_codes, packed_width, unpack_bits, unpack_codes

sizes = st.integers(1, 70)


def test_input_k_is_bit_k_of_little_endian_bytes() -> None:
    bits = torch.zeros(1, 11, dtype=torch.bool)
    bits[0, [0, 3, 8, 10]] = True
    assert pack_bits(bits).tolist() == [[0b00001001, 0b00000101]]


def test_first_plane_is_most_significant() -> None:
    assert pack_codes(torch.tensor([[0b100, 0b011]]), 3)[:, 0, 0].tolist() == [0b01, 0b10, 0b10]


@given(n=st.integers(1, 5), k=sizes, seed=st.integers(0, 99))
def test_bits_round_trip(n: int, k: int, seed: int) -> None:
    bits = torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_bits(bits)
    assert packed.shape == (n, packed_width(k))
    assert torch.equal(unpack_bits(packed, k), bits)
    check_padding(packed, k)


@given(n=st.integers(1, 5), k=sizes, width=st.integers(1, 8), seed=st.integers(0, 99))
def test_codes_round_trip(n: int, k: int, width: int, seed: int) -> None:
    codes = torch.randint(0, 2**width, (n, k), generator=torch.Generator().manual_seed(seed))
    packed = pack_codes(codes, width)
    assert packed.shape == (width, n, packed_width(k))
    assert torch.equal(unpack_codes(packed, k).long(), codes)
    check_padding(packed, k)


@given(k=sizes.filter(lambda k: k % 8), bit=st.integers(0, 7))
def test_pad_bits_are_checked(k: int, bit: int) -> None:
    packed = pack_bits(torch.zeros(3, k, dtype=torch.bool))
    packed[1, -1] = 1 << bit
    if bit < k % 8:
        check_padding(packed, k)
    else:
        with pytest.raises(ValueRangeError, match=f"layer 'a.b': pad.*1 rows with bits behind input {k - 1}"):
            check_padding(packed, k, layer="a.b")
