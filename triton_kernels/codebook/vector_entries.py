"""Vector codebooks on tensor cores: the entries that the codes name are operands of matrix products.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums over the positions of one split

A code is read once, its entry comes from the cache in one load, and all codebooks add to the same sums. The
work does not depend on the number of columns up to 16; the weight is never expanded beyond a tile.
"""

import triton
import triton.language as tl


@triton.jit
def vector_entries(
    weight,
    codebooks,
    codes,
    scales,
    out_scales,
    parts,
    columns,
    out_features,
    positions,
    steps,
    split_steps,
    BOOKS: tl.constexpr,
    SIZE: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    """parts [splits, columns / PER_TOKEN, out_features] in float32.

    Args:
        weight: int32 [BOOKS][out_features][positions / 4], four codes a word, the first lowest.
        codebooks: 16-bit floats [BOOKS][256][SIZE].
        codes: of the same dtype [columns][positions * SIZE]; PER_TOKEN columns of a token add up.
        scales: float32 [columns / PER_TOKEN].
        WIDEN: multiply in float32, which changes no product.
        steps, split_steps: blocks of BLOCK_INPUTS inputs, of the layer and of a split.
    """
    POSITIONS: tl.constexpr = BLOCK_INPUTS // SIZE
    OPERAND: tl.constexpr = tl.float32 if WIDEN else codes.dtype.element_ty
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    stored = tl.minimum(rows, out_features - 1)
    inputs = codes + tl.minimum(column, columns - 1).to(tl.int64) * (positions * SIZE)
    words = positions // 4
    own_words = (weight + stored.to(tl.int64) * words)[:, None] + tl.arange(0, POSITIONS // 4)[None, :]
    byte = 8 * tl.arange(0, 4)[None, None, :]
    element = tl.arange(0, SIZE)[None, None, :]

    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    first = tl.program_id(2) * split_steps
    for step in range(first, tl.minimum(first + split_steps, steps)):
        own = tl.load(inputs[None, :] + (step * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS))[:, None])
        own = own.to(OPERAND)
        for book in tl.static_range(BOOKS):
            word = tl.load(
                own_words + book * tl.cast(out_features, tl.int64) * words + step * (POSITIONS // 4)
            )
            code = ((word[:, :, None] >> byte) & 255).reshape(BLOCK_ROWS, POSITIONS)
            entry = tl.load(codebooks + book * 256 * SIZE + code[:, :, None] * SIZE + element)
            total = tl.dot(
                entry.to(OPERAND).reshape(BLOCK_ROWS, BLOCK_INPUTS), own, total, input_precision="ieee"
            )

    if PER_TOKEN == 2:
        first_column, second_column = tl.split(total.reshape(BLOCK_ROWS, BLOCK_COLUMNS // 2, 2))
        total = first_column + second_column
    token = tl.program_id(0) * (BLOCK_COLUMNS // PER_TOKEN) + tl.arange(0, BLOCK_COLUMNS // PER_TOKEN)
    tokens = columns // PER_TOKEN
    exist = token < tokens
    total *= tl.load(scales + token, exist, 0.0)[None, :]
    total *= tl.load(out_scales + stored).to(tl.float32)[:, None]
    at = (
        parts + (tl.program_id(2) * tl.cast(tokens, tl.int64) + token)[None, :] * out_features + rows[:, None]
    )
    tl.store(at, total, (rows < out_features)[:, None] & exist[None, :])
