"""Digit blocks, the layout of bits for Triton kernels: drawn positions, and back without loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.backends.cuda import digit_widths
from lowbit.backends.triton_layout import lay_out_bits, restore_bits, row_blocks, rows_of_bits, spare_blocks
from lowbit.formats import pack_bits, pack_codes

from tests.ops import cases


def random_codes(n, k, bits, seed=0):
    return torch.randint(2**bits, (n, k), generator=cases.generator(seed)).to(torch.uint8)


@given(
    n=cases.sizes,
    k=st.sampled_from((*cases.SIZES, 1023, 1025, 2100)),
    bits=st.integers(1, 8),
    one=st.booleans(),
)
def test_blocks_restore(n, k, bits, one):
    planes = pack_codes(random_codes(n, k, bits), bits)
    blocks = lay_out_bits(planes, k, one)
    widths = digit_widths(bits, bits if one else 0)
    assert blocks.shape[:2] == (bits, len(widths))
    assert blocks.shape[3] == 128
    behind = blocks.numel() // 128 - n * row_blocks(k, widths)
    assert 0 <= behind - spare_blocks(widths) < bits * len(widths)
    assert torch.equal(restore_bits(blocks, k, n), planes)
    ids = torch.tensor([n - 1, 0, n // 2])
    assert torch.equal(rows_of_bits(blocks, k, ids), planes[:, ids])


@pytest.mark.parametrize(("bits", "width"), [(1, 1), (2, 2), (4, 4)])
def test_field_f_of_byte_b_is_input_128_f_plus_b(bits, width):
    k, fields = 2048, 8 // width
    codes = random_codes(3, k, bits)
    blocks = lay_out_bits(pack_codes(codes, bits), k).reshape(-1, 128)
    rows = blocks[: 3 * row_blocks(k, [width])].reshape(3, -1, 128) ^ 0x80
    for block in range(rows.shape[1]):
        for field in range(fields):
            first = 128 * (fields * block + field)
            digits = (rows[:, block] >> (width * field)) & (2**width - 1)
            assert torch.equal(digits, codes[:, first : first + 128])


def test_digits_of_a_row_lie_in_order():
    """6 bits are a digit of four and one of two: ceil(4 K / 1024) and ceil(2 K / 1024) blocks."""
    codes = random_codes(2, 300, 6)
    rows = lay_out_bits(pack_codes(codes, 6), 300)
    rows = rows.reshape(-1, 128)[: 2 * 3].reshape(2, 3, 128) ^ 0x80
    assert torch.equal(rows[:, 0] & 15, codes[:, :128] >> 2)
    assert torch.equal(rows[:, 1, :44] & 15, codes[:, 256:] >> 2)
    assert torch.equal(rows[:, 2] & 3, codes[:, :128] & 3)


def test_one_plane_may_come_alone():
    weight = pack_bits(torch.rand(5, 70, generator=cases.generator(2)) > 0.5)
    assert torch.equal(lay_out_bits(weight, 70), lay_out_bits(weight.unsqueeze(0), 70))
