"""Scales and offsets of the rows of a tile, as its threads need them."""

import triton
import triton.language as tl


@triton.jit
def of_rows(values, row_groups, group):
    """values[row][group] of all rows; their first groups are at the places row_groups, one tensor a part.

    Of tensors smaller than the threads each thread loads what it needs; larger ones would go through shared
    memory, with a barrier for every group.
    """
    first = tl.load(values + row_groups[0] + group)
    if len(row_groups) == 1:
        return first
    else:
        second = tl.load(values + row_groups[1] + group)
        return tl.join(first, second).trans(1, 0).reshape(2 * first.shape[0])


@triton.jit
def quads_of(values, row_groups, four):
    """The 16-bit values of groups 4 `four` .. 4 `four` + 3 of all rows, int64, the first lowest."""
    words = values.to(tl.pointer_type(tl.int64), bitcast=True)
    if len(row_groups) == 1:
        return of_rows(words, (row_groups[0] // 4,), four)
    else:
        return of_rows(words, (row_groups[0] // 4, row_groups[1] // 4), four)


@triton.jit
def of_quads(quads, PLACE: tl.constexpr, values):
    """The value of each row at a place of consecutive `quads_of`, float32."""
    own = (quads[PLACE // 4] >> (16 * (PLACE % 4))).to(tl.int16)
    return own.to(values.dtype.element_ty, bitcast=True).to(tl.float32)
