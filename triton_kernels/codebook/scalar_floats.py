"""Scalar codebooks of any number of bits in float32: entries are looked up one by one in the cache.

program (4 tokens, row tile, split)    a lane has one word of a row's lines, that is every 8th quad of inputs
"""

import triton
import triton.language as tl

from .selectors import selector_words

_LINE = tl.constexpr(8)
TOKENS = 4  # of a program, whatever their number: the order of a sum does not depend on it


@triton.jit
def scalar_floats(
    weight,
    tables,
    values,
    parts,
    tokens,
    out_features,
    padded,
    superblocks,
    split_blocks,
    BITS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """parts [splits, tokens, out_features] in float32.

    Args:
        weight: int32 [out_features][8 (HEAD + BITS superblocks)].
        tables: [out_features][2^BITS].
        values: float32 [tokens][padded].
    """
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    stored = tl.minimum(rows, out_features - 1).to(tl.int64)
    # All in the three dimensions of the sums, so that no value changes its lane.
    stored = stored[None, :, None]
    word = tl.arange(0, _LINE)[None, None, :]
    lines = weight + stored * (HEAD * _LINE + superblocks * (BITS * _LINE)) + (HEAD * _LINE + word)
    table = tables + stored * 2**BITS
    inputs = values + tl.minimum(token, tokens - 1).to(tl.int64)[:, None, None] * padded + 4 * word

    LOW: tl.constexpr = min(BITS, 4)
    total = tl.zeros((BLOCK_TOKENS, BLOCK_ROWS, _LINE), tl.float32)
    first = tl.program_id(2) * split_blocks
    for block in range(first, tl.minimum(first + split_blocks, superblocks)):
        own = lines + block * (BITS * _LINE)
        for s in tl.static_range(4):
            low = selector_words(own, s, LOW)
            if BITS > 4:
                high = selector_words(own + 4 * _LINE, s, BITS - 4)
            for nibble in tl.static_range(8):
                code = (low >> (4 * nibble)) & 15
                if BITS > 4:
                    code |= ((high >> (4 * nibble)) & 15) << 4
                entry = tl.load(table + code).to(tl.float32)
                # Nibbles 0..3 are the first 32 of the word's 64 inputs.
                value = tl.load(inputs + (block * 256 + s * 64 + nibble // 4 * 32 + nibble % 4))
                total += value * entry

    at = (
        parts + (tl.program_id(2) * tl.cast(tokens, tl.int64) + token)[:, None] * out_features + rows[None, :]
    )
    exist = (token < tokens)[:, None] & (rows < out_features)[None, :]
    tl.store(at, tl.sum(total, 2), exist)
