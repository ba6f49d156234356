"""Scalar codebooks of 1 to 4 bits on integer tensor cores: bytes of table entries by PRMT from the codes.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums over superblocks of one split

    half of a selector word ---PRMT on the row's bytes t1---> four neighbouring elements of an operand (t1)
                           \\---PRMT on the row's bytes t0---> the same of another operand (t0)

With 4 bits a table has two halves of 8 entries, each looked up and multiplied on its own; what PRMT yields
for codes of the other half is 0 or -1, and the entries are stored corrected for it. No select, no mask, and
the product adds for free. Nothing is masked in the loop: rows and columns beyond the last one repeat it.
"""

import triton
import triton.language as tl

from .permute import bytes_of, permute_bytes
from .selectors import selector_words

_LINE = tl.constexpr(8)
_OTHER_HALF = tl.constexpr(-0x77777778)  # the highest bit of every nibble


@triton.jit
def scalar_selectors(
    weight,
    codes,
    scales,
    parts,
    columns,
    out_features,
    padded,
    superblocks,
    split_blocks,
    BITS: tl.constexpr,
    HEAD: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    PRMT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """parts [splits, columns / PER_TOKEN, out_features] in float32.

    Args:
        weight: int32 [out_features][8 (HEAD + BITS superblocks)].
        codes: int8 [columns][padded]; two columns of a token mean 256 times the first plus the second.
        scales: float32 [columns][padded / 128] with one column a token, else [columns / 2].
    """
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    stored = tl.minimum(rows, out_features - 1).to(tl.int64)
    column_read = tl.minimum(column, columns - 1).to(tl.int64)
    row = weight + stored * (HEAD * _LINE + superblocks * (BITS * _LINE))
    lines = (row + HEAD * _LINE)[:, None] + tl.arange(0, _LINE)[None, :]
    inputs = codes + column_read * padded
    within = tl.arange(0, 4 * _LINE)

    # A digit's words: 4 entries (the same word twice), 8, or two halves of 8.
    WORDS: tl.constexpr = 4 if BITS == 4 else 2 if BITS == 3 else 1
    SECOND: tl.constexpr = 0 if WORDS == 1 else 1
    low1 = tl.load(row)[:, None]
    high1 = tl.load(row + SECOND)[:, None]
    low0 = tl.load(row + WORDS)[:, None]
    high0 = tl.load(row + WORDS + SECOND)[:, None]
    row_scale = tl.load(row + 2 * WORDS).to(tl.float32, bitcast=True)
    if BITS == 4:
        upper_low1 = tl.load(row + 2)[:, None]
        upper_high1 = tl.load(row + 3)[:, None]
        upper_low0 = tl.load(row + 6)[:, None]
        upper_high0 = tl.load(row + 7)[:, None]

    FAST: tl.constexpr = PER_TOKEN == 1
    zero = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    sums1 = zero
    sums0 = zero
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    first = tl.program_id(2) * split_blocks
    for block in range(first, tl.minimum(first + split_blocks, superblocks)):
        for part in tl.static_range(8):
            own = tl.load(inputs[None, :] + (block * 256 + part * 32 + within)[:, None])
            selectors = selector_words(lines + block * (BITS * _LINE), part // 2, BITS) >> (16 * (part % 2))
            sums1 = tl.dot(
                bytes_of(permute_bytes(low1, high1, selectors, PRMT)), own, sums1, out_dtype=tl.int32
            )
            sums0 = tl.dot(
                bytes_of(permute_bytes(low0, high0, selectors, PRMT)), own, sums0, out_dtype=tl.int32
            )
            if BITS == 4:
                selectors = selectors ^ _OTHER_HALF
                upper = bytes_of(permute_bytes(upper_low1, upper_high1, selectors, PRMT))
                sums1 = tl.dot(upper, own, sums1, out_dtype=tl.int32)
                upper = bytes_of(permute_bytes(upper_low0, upper_high0, selectors, PRMT))
                sums0 = tl.dot(upper, own, sums0, out_dtype=tl.int32)
            if FAST and part % 4 == 3:
                scale = tl.load(scales + column_read * (padded // 128) + block * 2 + part // 4)
                total += (sums1 * 255 + sums0).to(tl.float32) * scale[None, :]
                sums1 = zero
                sums0 = zero

    token = tl.program_id(0) * (BLOCK_COLUMNS // PER_TOKEN) + tl.arange(0, BLOCK_COLUMNS // PER_TOKEN)
    tokens = columns // PER_TOKEN
    exist = token < tokens
    if not FAST:
        whole = sums1.to(tl.int64) * 255 + sums0
        high, low = tl.split(whole.reshape(BLOCK_ROWS, BLOCK_COLUMNS // 2, 2))
        scale = tl.load(scales + token, exist, 0.0)
        total = (high * 256 + low).to(tl.float32) * scale[None, :]
    total *= row_scale[:, None]
    at = (
        parts + (tl.program_id(2) * tl.cast(tokens, tl.int64) + token)[None, :] * out_features + rows[:, None]
    )
    tl.store(at, total, (rows < out_features)[:, None] & exist[None, :])
