"""The end of a product: sums to finished elements of y, in the kernel that made them or in one of its own."""

import triton
import triton.language as tl

from .sizes import SIZES


@triton.jit
def segment_of(tile, out_features, SEGMENTS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Segment, first row and row behind the segment, of a tile of rows; tiles do not cross segments.

    SEGMENTS are the rows of all but the last one, so that the code of a layer alone does not depend on them.
    """
    segment = tile * 0
    first_tile = tile * 0
    begin = tile * 0
    end = out_features
    tiles = 0
    rows = 0
    for i in tl.static_range(len(SEGMENTS)):
        tiles += (SEGMENTS[i] + BLOCK_ROWS - 1) // BLOCK_ROWS
        rows += SEGMENTS[i]
        behind = tile >= tiles
        segment = tl.where(behind, i + 1, segment)
        first_tile = tl.where(behind, tiles, first_tile)
        begin = tl.where(behind, rows, begin)
        end = tl.where(behind, end, tl.minimum(end, rows))
    return segment, begin + (tile - first_tile) * BLOCK_ROWS, end


@triton.jit
def join_columns(sums, PER_TOKEN: tl.constexpr):
    """Sums of tokens from those of their columns: 256 times the first plus the second where there are two."""
    if PER_TOKEN == 2:
        high, low = tl.split(sums.reshape(sums.shape[0], sums.shape[1] // 2, 2))
        sums = 256 * high + low
    return sums


@triton.jit
def finish(
    total,
    rows,
    end,
    set_,
    token,
    scales,
    offsets,
    token_scales,
    rests,
    sums,
    gates,
    out_scales,
    bias,
    y,
    tokens,
    out_features,
    factor,
    EXPERTS: tl.constexpr,
    INTEGERS: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ROW_RESTS: tl.constexpr,
    SUBNORMAL: tl.constexpr,
):
    """y[token][row] = value * (sum_e gates_e out_scales_e[row]) + bias[row].

    Args:
        total: sums of products with stored digits [rows, tokens], int64 where INTEGERS, else float32 and
            multiplied by the scales of the tokens, which where SUBNORMAL lack a power, in token_scales.
        rows, end: rows of the layer; those from `end` on are of another segment.
        factor: what turns twice the integers, or else `total`, into the value.
        ROW_SCALES: `scales` and `offsets` have one value per row, not yet applied.
        ROW_RESTS: `rests` and `sums` have one value per token, not yet added.
    """
    live = rows < end
    exist = token < tokens
    member = set_ * tl.cast(tokens, tl.int64) + token
    if INTEGERS:
        total = (2 * total + tl.load(rests + member, exist, 0)[None, :]) * factor
        if offsets is not None:
            offset = tl.load(offsets + rows, live, 0).to(tl.int64)
            total += offset[:, None] * tl.load(sums + member, exist, 0)[None, :]
        value = total.to(tl.float32) * tl.load(token_scales + member, exist, 0.0)[None, :]
    else:
        value = total
        if SUBNORMAL:
            value = value * 2.0**17 * tl.load(token_scales + member, exist, 0.0)[None, :]
        if ROW_RESTS:
            value += tl.load(rests + member, exist, 0.0)[None, :]
            if offsets is not None:
                offset = tl.load(offsets + rows, live, 0).to(tl.float32)
                value += offset[:, None] * tl.load(sums + member, exist, 0.0)[None, :]
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
def leave(
    total,
    rows,
    end,
    set_,
    token,
    column,
    scales,
    offsets,
    token_scales,
    rests,
    sums,
    gates,
    out_scales,
    bias,
    y,
    tokens,
    out_features,
    factor,
    EXPERTS: tl.constexpr,
    INTEGERS: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    SPLIT: tl.constexpr,
    SUBNORMAL: tl.constexpr = False,
):
    """Stores a tile, finished, or where SPLIT as part program_id(2) of the sums [splits, across, rows].

    Args:
        total: sums, int32 of columns where INTEGERS, else float32 of tokens, scaled as far as `finish` says.
        token, column: numbers of the tile's; those that do not exist are not stored.
        y: or the parts.
        GROUP_UNITS: 0 where no row has more than one scale.
    """
    if SPLIT:
        width = tl.cast(tokens, tl.int64) * (PER_TOKEN if INTEGERS else 1)
        across = column if INTEGERS else token
        at = y + (tl.program_id(2) * width + across)[None, :] * out_features + rows[:, None]
        tl.store(at, total, (rows < end)[:, None] & (across < width)[None, :])
    else:
        finish(
            join_columns(total.to(tl.int64), PER_TOKEN) if INTEGERS else total,
            rows, end, set_, token, scales, offsets, token_scales, rests, sums, gates, out_scales, bias, y,
            tokens, out_features, factor, EXPERTS, INTEGERS, scales is not None and GROUP_UNITS == 0,
            GROUP_UNITS == 0 and not INTEGERS, SUBNORMAL,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def combine(
    partials,
    scales,
    offsets,
    token_scales,
    rests,
    sums,
    gates,
    out_scales,
    bias,
    y,
    tokens,
    out_features,
    splits,
    factor,
    SEGMENTS: tl.constexpr,
    SETS: tl.constexpr,
    EXPERTS: tl.constexpr,
    INTEGERS: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    ROW_RESTS: tl.constexpr,
    SUBNORMAL: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Adds the parts of a product in ascending order, and finishes it.

    Args:
        partials: [splits, tokens * PER_TOKEN, out_features], of columns where INTEGERS, else of tokens.
    """
    segment, first_row, end = segment_of(tl.program_id(1), out_features, SEGMENTS, BLOCK_ROWS)
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    first_token = tl.program_id(0) * BLOCK_TOKENS
    columns = tl.cast(tokens, tl.int64) * PER_TOKEN
    column = first_token * PER_TOKEN + tl.arange(0, BLOCK_TOKENS * PER_TOKEN)
    exist = (rows < end)[:, None] & (column < columns)[None, :]
    at = partials + column.to(tl.int64)[None, :] * out_features + rows[:, None]
    total = tl.load(at, exist, 0)
    for split in range(1, splits):
        total += tl.load(at + split * columns * out_features, exist, 0)
    token = first_token + tl.arange(0, BLOCK_TOKENS)
    set_ = segment if SETS > 1 else 0
    finish(
        join_columns(total.to(tl.int64), PER_TOKEN) if INTEGERS else total,
        rows, end, set_, token, scales, offsets, token_scales, rests, sums, gates, out_scales, bias, y,
        tokens, out_features, factor, EXPERTS, INTEGERS, ROW_SCALES, ROW_RESTS, SUBNORMAL,
    )  # fmt: skip
