"""Vector codebooks in float32: products of all entries with the inputs once, then sums by code."""

import triton
import triton.language as tl


@triton.jit
def partial_sums(
    values,
    codebooks,
    sums,
    padded,
    in_features,
    positions,
    SIZE: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):
    """sums [tokens][books][positions][256]: inputs SIZE j .. of position j times every entry of a codebook.

    Args:
        values: float32 [tokens][padded]; inputs from in_features on are not read, and count as 0.
        codebooks: floats [books][256][SIZE].
    """
    book = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    entry = tl.arange(0, 256)
    total = tl.zeros((BLOCK_POSITIONS, 256), tl.float32)
    for i in range(SIZE):
        inputs = position * SIZE + i
        value = tl.load(values + token * padded + inputs, inputs < in_features, 0.0)
        element = tl.load(codebooks + (book * 256 + entry) * SIZE + i).to(tl.float32)
        total += value[:, None] * element[None, :]
    row = (token * tl.num_programs(1) + book) * positions + position
    tl.store(sums + row[:, None] * 256 + entry[None, :], total)


@triton.jit
def gather_sums(
    weight,
    sums,
    out_scales,
    parts,
    out_features,
    positions,
    steps,
    split_steps,
    BOOKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):
    """parts [splits, tokens, out_features] in float32, of one token.

    Args:
        weight: uint8 [BOOKS][out_features][positions].
        sums: float32 [tokens][BOOKS][positions][256].
        steps, split_steps: blocks of BLOCK_POSITIONS positions, of the layer and of a split.
    """
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    stored = tl.minimum(rows, out_features - 1)
    position = tl.arange(0, BLOCK_POSITIONS)
    own_codes = (weight + stored.to(tl.int64) * positions)[:, None] + position[None, :]
    own_sums = (sums + token * BOOKS * positions * 256) + position[None, :] * 256
    total = tl.zeros((BLOCK_ROWS, BLOCK_POSITIONS), tl.float32)
    first = tl.program_id(2) * split_steps
    for step in range(first, tl.minimum(first + split_steps, steps)):
        for book in tl.static_range(BOOKS):
            code = tl.load(
                own_codes + book * tl.cast(out_features, tl.int64) * positions + step * BLOCK_POSITIONS
            )
            total += tl.load(own_sums + (book * positions + step * BLOCK_POSITIONS) * 256 + code)
    total_row = tl.sum(total, 1) * tl.load(out_scales + stored).to(tl.float32)
    at = parts + (tl.program_id(2) * tl.num_programs(0) + token) * out_features + rows
    tl.store(at, total_row, rows < out_features)
