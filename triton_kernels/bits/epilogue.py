"""The end of a product: sums to finished elements of y, in the kernel that made them or in one of its own."""

import triton
import triton.language as tl


@triton.jit
def segment_of(tile, SEGMENTS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Segment, first row of the layer and row behind the segment, of a tile of rows that lies in one segment."""
    segment = tile * 0
    first_tile = tile * 0
    begin = tile * 0
    end = tile * 0 + SEGMENTS[0]
    tiles = 0
    rows = 0
    for i in tl.static_range(1, len(SEGMENTS)):
        tiles += (SEGMENTS[i - 1] + BLOCK_ROWS - 1) // BLOCK_ROWS
        rows += SEGMENTS[i - 1]
        inside = tile >= tiles
        segment = tl.where(inside, i, segment)
        first_tile = tl.where(inside, tiles, first_tile)
        begin = tl.where(inside, rows, begin)
        end = tl.where(inside, rows + SEGMENTS[i], end)
    return segment, begin + (tile - first_tile) * BLOCK_ROWS, end


@triton.jit
def finish(
    total,
    rows,
    end,
    set_,
    first_column,
    scales,
    offsets,
    column_scales,
    rests,
    sums,
    gates,
    out_scales,
    bias,
    y,
    columns,
    out_features,
    factor,
    EXPERTS: tl.constexpr,
    INTEGERS: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ROW_RESTS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
):
    """y[token][row] = value * (sum_e gates_e out_scales_e[row]) + bias[row].

    Args:
        total: sums of products with stored digits [rows, columns]: int32 or int64 where INTEGERS, else float32
            and multiplied by the scales of the columns.
        rows, end: rows of the layer; those from `end` on are of another segment.
        factor: half the factor of a code step times two: 2^(B - b) where INTEGERS, else what turns `total`
            into the value.
        ROW_SCALES: `scales` and `offsets` have one value per row, not yet applied.
        ROW_RESTS: `rests` and `sums` have one value per column, not yet added.
    """
    live = rows < end
    column = first_column + tl.arange(0, total.shape[1])
    exist = column < columns
    column = set_ * columns.to(tl.int64) + column
    if INTEGERS:
        total = 2 * total.to(tl.int64) + tl.load(rests + column, exist, 0)[None, :]
        total = total * factor
        if offsets is not None:
            offset = tl.load(offsets + rows, live, 0).to(tl.int64)
            total += offset[:, None] * tl.load(sums + column, exist, 0)[None, :]
    elif ROW_RESTS:
        total += tl.load(rests + column, exist, 0.0)[None, :]
        if offsets is not None:
            offset = tl.load(offsets + rows, live, 0).to(tl.float32)
            total += offset[:, None] * tl.load(sums + column, exist, 0.0)[None, :]
    if PER_TOKEN == 2:
        high, low = tl.split(total.reshape(total.shape[0], total.shape[1] // 2, 2))
        total = 256 * high + low if INTEGERS else high + low
    token = first_column // PER_TOKEN + tl.arange(0, total.shape[1])
    tokens = columns // PER_TOKEN
    exist = token < tokens
    member = set_ * tokens.to(tl.int64) + token
    value = total.to(tl.float32)
    if INTEGERS:
        # Of a token's columns the last one counts once.
        value *= tl.load(column_scales + member * PER_TOKEN + (PER_TOKEN - 1), exist, 0.0)[None, :]
    else:
        value *= factor
    if ROW_SCALES:
        value *= tl.load(scales + rows, live, 0.0).to(tl.float32)[:, None]
    if EXPERTS == 1:
        value *= tl.load(out_scales + rows, live, 0.0).to(tl.float32)[:, None]
    if EXPERTS > 1:
        mix = tl.zeros_like(value)
        for expert in tl.static_range(EXPERTS):
            gate = tl.load(gates + member * EXPERTS + expert, exist, 0.0)
            own = tl.load(out_scales + expert * out_features + rows, live, 0.0).to(tl.float32)
            mix += gate[None, :] * own[:, None]
        value *= mix
    if bias is not None:
        value += tl.load(bias + rows, live, 0.0).to(tl.float32)[:, None]
    at = y + token.to(tl.int64)[None, :] * out_features + rows[:, None]
    tl.store(at, value.to(y.dtype.element_ty), live[:, None] & exist[None, :])


@triton.jit
def combine(
    partials,
    scales,
    offsets,
    column_scales,
    rests,
    sums,
    gates,
    out_scales,
    bias,
    y,
    columns,
    out_features,
    splits,
    factor,
    SEGMENTS: tl.constexpr,
    SETS: tl.constexpr,
    EXPERTS: tl.constexpr,
    INTEGERS: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ROW_RESTS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Adds the parts [splits, columns, out_features] of a product in ascending order, and finishes it."""
    segment, first_row, end = segment_of(tl.program_id(1), SEGMENTS, BLOCK_ROWS)
    first_column = tl.program_id(0) * BLOCK_COLUMNS
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)
    exist = (rows < end)[:, None] & (column < columns)[None, :]
    at = partials + column.to(tl.int64)[None, :] * out_features + rows[:, None]
    total = tl.load(at, exist, 0)
    for split in range(1, splits):
        total += tl.load(at + split * columns.to(tl.int64) * out_features, exist, 0)
    set_ = segment if SETS > 1 else 0
    finish(
        total, rows, end, set_, first_column, scales, offsets, column_scales, rests, sums, gates, out_scales, bias, y,
        columns, out_features, factor, EXPERTS, INTEGERS, ROW_SCALES, ROW_RESTS, PER_TOKEN,
    )  # fmt: skip
