"""Products of integer activations with digit blocks: GEMV and, with wider tiles, GEMM.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums over the spans of one split

Weights stay packed. A field is masked where it lies and multiplied by 128 (UNIT) inputs in their own order, so
its sum counts 2^(w f) times (lowbit.backends.triton_layout). That is undone

    whole rows, few columns    after the row: every field has an accumulator of its own
    whole rows, many columns   after each product, by a shift
    scales inside a row        with the conversion to float, at no cost (`value_of`)

Nothing is masked in the loops but columns: rows beyond the last one repeat it, and blocks are whole.
"""

import triton
import triton.language as tl

from .epilogue import finish, segment_of
from .fields import field_of, start_of, value_of

SPAN_INPUTS = tl.constexpr(1024)  # what splits are made of


@triton.jit
def _whole_pass(
    blocks,
    inputs,
    exist,
    first,
    last,
    WIDTH: tl.constexpr,
    DEFERRED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """int32 sums of products with one digit over the blocks first .. last - 1."""
    BYTES: tl.constexpr = 128  # of a block
    FIELDS: tl.constexpr = 8 // WIDTH
    byte = tl.arange(0, BYTES)
    zero = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    accumulators = (zero,) * (FIELDS if DEFERRED else 1)
    for block in range(first, last):
        packed = tl.load(blocks[:, None] + (block * BYTES + byte)[None, :])
        at = inputs[None, :] + (block * (FIELDS * BYTES) + byte)[:, None]
        added = ()
        for field in tl.static_range(FIELDS):
            part = field_of(packed, field, WIDTH)
            own = tl.load(at + field * BYTES, exist[None, :], 0)
            if DEFERRED:
                added = added + (tl.dot(part, own, accumulators[field], out_dtype=tl.int32),)
            else:
                more = tl.dot(part, own, out_dtype=tl.int32) >> (WIDTH * field)
                added = (accumulators[0] + more if field == 0 else added[0] + more,)
        accumulators = added
    total = accumulators[0]
    if DEFERRED:
        for field in tl.static_range(1, FIELDS):
            total += accumulators[field] >> (WIDTH * field)
    return total


@triton.jit
def _scaled_pass(
    total,
    blocks,
    inputs,
    exist,
    first,
    last,
    row_scales,
    row_offsets,
    groups,
    column_scales,
    rests,
    sums,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    COLUMN_GROUPS: tl.constexpr,
    RESTS: tl.constexpr,
):
    """total + products with one digit over the blocks first .. last - 1, scaled after every UNIT inputs.

    With RESTS the share of rests and offsets is added as well.
    """
    FIELDS: tl.constexpr = 8 // WIDTH
    BYTES: tl.constexpr = 128  # of a block
    CHUNKS: tl.constexpr = BYTES // UNIT
    byte = tl.arange(0, UNIT)
    scale = tl.load(column_scales, exist, 0.0)
    for chunk in range(first * CHUNKS, last * CHUNKS):
        packed = tl.load(blocks[:, None] + (chunk * UNIT + byte)[None, :])
        block = chunk // CHUNKS
        within = chunk % CHUNKS
        for field in tl.static_range(FIELDS):
            group = block * FIELDS + field
            own = tl.load(
                inputs[None, :] + (group * BYTES + within * UNIT + byte)[:, None], exist[None, :], 0
            )
            part = field_of(packed, field, WIDTH)
            start = start_of(total.shape[0], total.shape[1], WIDTH * field)
            value = value_of(tl.dot(part, own, start, out_dtype=tl.int32), WIDTH * field)
            if COLUMN_GROUPS:
                scale = tl.load(column_scales + group, exist, 0.0)
            if GROUP_UNITS == 0:
                total += value * scale[None, :]
            else:
                unit = group * CHUNKS + within
                # Behind the last group there are only inputs that do not exist.
                own_group = tl.minimum(unit // GROUP_UNITS, groups - 1)
                value *= scale[None, :]
                if RESTS:
                    value += tl.load(rests + unit, exist, 0.0)[None, :]
                    if row_offsets is not None:
                        offset = tl.load(row_offsets + own_group).to(tl.float32)
                        value += offset[:, None] * tl.load(sums + unit, exist, 0.0)[None, :]
                total += value * tl.load(row_scales + own_group).to(tl.float32)[:, None]
    return total


@triton.jit
def product(
    weight,
    codes,
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
    in_features,
    row_blocks,
    groups,
    split_spans,
    factor,
    SEGMENTS: tl.constexpr,
    SETS: tl.constexpr,
    EXPERTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    COLUMN_GROUPS: tl.constexpr,
    INTEGERS: tl.constexpr,
    DEFERRED: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One tile of y, or of its parts [splits, columns, out_features] where SPLIT.

    Args:
        weight: blocks [out_features][row_blocks][128], of which the first digits, WIDTHS, are multiplied.
        codes: int8 [sets][columns][padded], padded = in_features rounded up to whole spans.
        scales, offsets: [out_features, groups] or None, as in the checkpoint.
        column_scales: float32 [sets][columns] or, with COLUMN_GROUPS, [sets][columns][padded / 128].
        rests, sums: what the stored digits lack, and what offsets are multiplied by: per column and unit where
            GROUP_UNITS > 0, else per column.
        columns: PER_TOKEN (1 or 2) times the number of tokens.
        split_spans: spans of 1024 inputs of a split.
        factor: see `finish`.
        UNIT: inputs of a product, 128 or, where groups are not multiples of that, 32.
        GROUP_UNITS: units of a scale; 0: the row has one scale at most.
        INTEGERS: sums are int32 over the whole row.
        DEFERRED: with an accumulator for every field.
    """
    segment, first_row, end = segment_of(tl.program_id(1), SEGMENTS, BLOCK_ROWS)
    set_ = segment if SETS > 1 else 0
    first_column = tl.program_id(0) * BLOCK_COLUMNS
    BYTES: tl.constexpr = 128  # of a block
    padded = tl.cdiv(in_features, SPAN_INPUTS) * SPAN_INPUTS
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    stored = tl.minimum(rows, end - 1).to(tl.int64)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)
    exist = column < columns
    member = set_ * columns.to(tl.int64) + column
    blocks = weight + stored * (row_blocks * BYTES)
    inputs = codes + member * padded
    if GROUP_UNITS > 0:
        row_scales = scales + stored * groups
        row_offsets = offsets + stored * groups if offsets is not None else None
    first_span = tl.program_id(2) * split_spans

    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32 if INTEGERS else tl.float32)
    for p in tl.static_range(len(WIDTHS)):
        width: tl.constexpr = WIDTHS[p]
        count = tl.cdiv(in_features * width, SPAN_INPUTS)
        first = first_span * width
        last = tl.minimum(first + split_spans * width, count)
        if INTEGERS:
            total = (total << width) + _whole_pass(
                blocks, inputs, exist, first, last, width, DEFERRED, BLOCK_ROWS, BLOCK_COLUMNS
            )
        else:
            total = _scaled_pass(
                total * 2.0**width,
                blocks,
                inputs,
                exist,
                first,
                last,
                row_scales if GROUP_UNITS > 0 else None,
                row_offsets if GROUP_UNITS > 0 else None,
                groups,
                column_scales + member * (padded // 128 if COLUMN_GROUPS else 1),
                rests + member * (padded // UNIT),
                sums + member * (padded // UNIT),
                width,
                UNIT,
                GROUP_UNITS,
                COLUMN_GROUPS,
                p + 1 == len(WIDTHS),
            )
        blocks += count * BYTES

    if SPLIT:
        parts = y + tl.program_id(2) * columns.to(tl.int64) * out_features
        at = parts + column.to(tl.int64)[None, :] * out_features + rows[:, None]
        tl.store(at, total, (rows < end)[:, None] & exist[None, :])
    else:
        finish(
            total, rows, end, set_, first_column, scales, offsets, column_scales, rests, sums, gates, out_scales, bias,
            y, columns, out_features, factor, EXPERTS, INTEGERS, scales is not None and GROUP_UNITS == 0,
            GROUP_UNITS == 0 and not INTEGERS, PER_TOKEN,
        )  # fmt: skip
