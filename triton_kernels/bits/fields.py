"""Digits of weights inside kernels: fields of packed bytes, and integer sums as floats."""

import triton
import triton.language as tl

# The bits of 1.5 * 2^23, a float whose last place counts 1.
_UNIT_FLOAT = tl.constexpr(0x4B400000)


@triton.jit
def field_of(packed, FIELD: tl.constexpr, WIDTH: tl.constexpr):
    """2^(WIDTH FIELD) times the digits of one field, int8: of the topmost field less 2^(WIDTH - 1)."""
    return (packed & (((1 << WIDTH) - 1) << (WIDTH * FIELD))).to(tl.int8, bitcast=True)


@triton.jit
def start_of(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Accumulator from which integer sums are read as floats by `value_of`: int32 [ROWS, COLUMNS].

    It holds, as a float, 1.5 * 2^23 plus the sum, exactly while the sum stays below 2^22; 128 inputs * 128 *
    128 is half of that.
    """
    return tl.full((ROWS, COLUMNS), _UNIT_FLOAT, tl.int32)


@triton.jit
def value_of(sums):
    """float32: the sums of an accumulator from `start_of`."""
    return sums.to(tl.float32, bitcast=True) - 1.5 * 2.0**23


@triton.jit
def correction_of(group, WIDTHS: tl.constexpr):
    """What a product with stored digits lacks, in units of half a code step, int32 like `group`.

    Of 128 inputs with sum T, a weight of digits d stands for sum_p 2^shift_p (2 d_p - (2^w_p - 1)) while a
    kernel adds up d_p, less 2^(w_p - 1) in the topmost field of a block. So the true sum is twice that of the
    kernel plus T times sum_p 2^shift_p c_p, with c_p = 1 in the topmost field and 1 - 2^w_p elsewhere.

    Args:
        group: number of the group of 128 inputs in the row.
        WIDTHS: digits that are multiplied, most significant first.
    """
    total = tl.zeros_like(group)
    for p in tl.static_range(len(WIDTHS)):
        topmost = group % (8 // WIDTHS[p]) == 8 // WIDTHS[p] - 1
        total = (total << WIDTHS[p]) + tl.where(topmost, 1, 1 - (1 << WIDTHS[p]))
    return total
