"""How the Triton kernels of the families signs and planes hold bits, in plain torch.

The unsigned code of a weight (B bits) is cut into digits of 4, 2 and 1 bits, most significant first. A digit
of width w lies F = 8 / w to a byte, in blocks of 128 bytes of one row:

    block s         byte 0     byte 1     ...   byte 127
    bits w f ..     digit of input 128 (F s + f) + byte            f = 0 .. F - 1

           field 0        field 1            field F - 1
    | 128 inputs   | 128 inputs   |  ...  | 128 inputs   |         each in the same 128 bytes

so that `block & (mask << w f)` is the field in place, 2^(w f) times its digit, and one product with 128
inputs in their own order. The top bit of every byte is stored inverted: read as a signed byte, the topmost
field is then 2^(w (F - 1)) times (digit - 2^(w - 1)), and no field needs another instruction than its mask.

    row     all blocks of its first digit, then those of the next: R blocks
    weight  uint8 [B, digits, blocks, 128]     rows one behind the other; the first two sizes say how a code
                                               is cut; blocks of zeros behind the last row fill the shape,
                                               at least as many as kernels read behind a row, `spare_blocks`

Inputs that pad have digit 0. Scales and offsets stay as they are in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowbit.backends.cuda import digit_widths
from lowbit.formats.bits import pack_codes, unpack_codes

BLOCK_BYTES = 128
SPAN_INPUTS = 8 * BLOCK_BYTES  # of a block of one-bit digits, the widest
_SIGN_BIT = 0x80
_CHUNK_CODES = 1 << 24


def digit_blocks(in_features: int, width: int) -> int:
    """Blocks that hold one digit of a row."""
    return -(-in_features * width // SPAN_INPUTS)


def row_blocks(in_features: int, widths: Sequence[int]) -> int:
    """R: blocks of a row."""
    return sum(digit_blocks(in_features, width) for width in widths)


def rows_at_a_time(in_features: int) -> int:
    """Rows whose codes are unpacked together, so that a large layer takes little memory besides its own."""
    return max(1, _CHUNK_CODES // in_features)


def spare_blocks(widths: Sequence[int]) -> int:
    """Blocks behind a row that loops over a span of inputs at a time may read, and multiply by zeros."""
    return max(widths) - 1


def lay_out_bits(planes: Tensor, in_features: int, one_bit_digits: bool = False) -> Tensor:
    """Canonical bits, uint8 [B, N, ceil(K/8)] or [N, ceil(K/8)], to blocks [B, digits, blocks, 128].

    Codes are cut into as few digits as there are; with `one_bit_digits` any number of the first can be read.
    """
    planes = planes if planes.dim() == 3 else planes.unsqueeze(0)
    bits = planes.shape[0]
    widths = digit_widths(bits, bits if one_bit_digits else 0)
    some = planes.split(rows_at_a_time(in_features), dim=1)
    parts = [_pack_rows(part, in_features, widths) for part in some]
    rows = torch.cat(parts).reshape(-1, BLOCK_BYTES)
    spare = spare_blocks(widths)
    filling = spare + -(rows.shape[0] + spare) % (bits * len(widths))
    return pad(rows, (0, 0, 0, filling)).reshape(bits, len(widths), -1, BLOCK_BYTES)


def restore_bits(blocks: Tensor, in_features: int, out_features: int) -> Tensor:
    """Blocks back to canonical bits [B, N, ceil(K/8)]."""
    return rows_of_bits(blocks, in_features, torch.arange(out_features, device=blocks.device))


def rows_of_bits(blocks: Tensor, in_features: int, ids: Tensor) -> Tensor:
    """Canonical bits [B, n, ceil(K/8)] of the rows `ids`."""
    widths = digit_widths(blocks.shape[0], blocks.shape[1])
    row_size = row_blocks(in_features, widths)
    flat = blocks.reshape(-1, BLOCK_BYTES)
    rows = flat[: flat.shape[0] // row_size * row_size].reshape(-1, row_size, BLOCK_BYTES)
    split = ids.split(rows_at_a_time(in_features))
    parts = [_unpack_rows(rows[some], in_features, widths) for some in split]
    return torch.cat(parts, dim=1)


def _pack_rows(planes: Tensor, in_features: int, widths: list[int]) -> Tensor:
    """uint8 [B, n, ceil(K/8)] -> [n, R, 128]."""
    parts, plane = [], 0
    for width in widths:
        digits = unpack_codes(planes[plane : plane + width], in_features)
        plane += width
        count, fields = digit_blocks(in_features, width), 8 // width
        digits = pad(digits, (0, count * fields * BLOCK_BYTES - in_features))
        digits = digits.reshape(-1, count, fields, BLOCK_BYTES)
        packed = digits[:, :, 0] ^ _SIGN_BIT
        for field in range(1, fields):
            packed ^= digits[:, :, field] << (width * field)
        parts.append(packed)
    return torch.cat(parts, dim=1)


def _unpack_rows(rows: Tensor, in_features: int, widths: list[int]) -> Tensor:
    """Inverse of `_pack_rows`."""
    planes, block = [], 0
    for width in widths:
        count = digit_blocks(in_features, width)
        packed = rows[:, block : block + count] ^ _SIGN_BIT
        block += count
        shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=rows.device)
        digits = (packed.unsqueeze(2) >> shifts[:, None]) & (2**width - 1)
        planes.append(pack_codes(digits.flatten(1)[:, :in_features], width))
    return torch.cat(planes)
