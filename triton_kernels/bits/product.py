"""Products of integer activations with digit blocks: GEMV and, with wider tiles, GEMM.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums over the spans of one split

Weights stay packed. A field is masked where it lies and multiplied by 128 (UNIT) inputs in their own order,
so its sum counts 2^(w f) times (lowbit.backends.triton_layout). That is undone

    whole rows             after the row: every field has an accumulator of its own
    scales inside a row    with the conversion to float, or in the scale

Nothing is masked in the loops but columns: rows beyond the last one repeat it, and blocks are whole.
"""

import triton
import triton.language as tl

from .epilogue import finish, join_columns, segment_of
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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """int32 sums of products with one digit over the blocks first .. last - 1."""
    BYTES: tl.constexpr = 128  # of a block
    FIELDS: tl.constexpr = 8 // WIDTH
    byte = tl.arange(0, BYTES)
    zero = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    accumulators = (zero,) * FIELDS
    # A span at a time.
    for block in tl.range(first, last, loop_unroll_factor=WIDTH):
        packed = tl.load(blocks[:, None] + (block * BYTES + byte)[None, :])
        at = inputs[None, :] + (block * (FIELDS * BYTES) + byte)[:, None]
        added = ()
        for field in tl.static_range(FIELDS):
            part = field_of(packed, field, WIDTH)
            own = tl.load(at + field * BYTES, exist[None, :], 0)
            added = added + (tl.dot(part, own, accumulators[field], out_dtype=tl.int32),)  # type: ignore[assignment]  # noqa: RUF005
        accumulators = added
    total = accumulators[0]
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
    token_scales,
    rests,
    sums,
    tokens_exist,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP_UNITS: tl.constexpr,
    TOKEN_GROUPS: tl.constexpr,
    RESTS: tl.constexpr,
    UNROLL: tl.constexpr,
    PER_TOKEN: tl.constexpr,
):
    """total + products with one digit over the blocks first .. last - 1, scaled after every UNIT inputs.

    With RESTS the share of rests and offsets is added as well.
    """
    FIELDS: tl.constexpr = 8 // WIDTH
    BYTES: tl.constexpr = 128  # of a block
    CHUNKS: tl.constexpr = BYTES // UNIT
    byte = tl.arange(0, UNIT)
    scale = tl.load(token_scales, tokens_exist, 0.0)
    for chunk in tl.range(first * CHUNKS, last * CHUNKS, loop_unroll_factor=UNROLL):
        packed = tl.load(blocks[:, None] + (chunk * UNIT + byte)[None, :])
        block = chunk // CHUNKS
        within = chunk % CHUNKS
        for field in tl.static_range(FIELDS):
            group = block * FIELDS + field
            at = inputs[None, :] + (group * BYTES + within * UNIT + byte)[:, None]
            part = field_of(packed, field, WIDTH)
            value, unit_scale = _unit_sums(part, tl.load(at, exist[None, :], 0), WIDTH * field, PER_TOKEN)
            if TOKEN_GROUPS:
                scale = tl.load(token_scales + group, tokens_exist, 0.0)
            if GROUP_UNITS == 0:
                total += value * (scale * unit_scale)[None, :]
            else:
                unit = group * CHUNKS + within
                # Behind the last group there are only inputs that do not exist.
                own_group = tl.minimum(unit // GROUP_UNITS, groups - 1)
                value *= (scale * unit_scale)[None, :]
                if RESTS:
                    value += tl.load(rests + unit, tokens_exist, 0.0)[None, :]
                    if row_offsets is not None:
                        offset = tl.load(row_offsets + own_group).to(tl.float32)
                        value += offset[:, None] * tl.load(sums + unit, tokens_exist, 0.0)[None, :]
                total += value * tl.load(row_scales + own_group).to(tl.float32)[:, None]
    return total


@triton.jit
def _unit_sums(part, own, SHIFT: tl.constexpr, PER_TOKEN: tl.constexpr):
    """Products of a field, which lies SHIFT bits up, with 128 codes: float32 [rows, tokens] and a factor."""
    if PER_TOKEN == 1:
        start = start_of(part.shape[0], own.shape[1], SHIFT)
        return value_of(tl.dot(part, own, start, out_dtype=tl.int32), SHIFT), 1.0
    # 128 inputs * 128 * 32639 fits.
    return join_columns(tl.dot(part, own, out_dtype=tl.int32), PER_TOKEN).to(tl.float32), 0.5**SHIFT


@triton.jit
def product(
    weight,
    codes,
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
    TOKEN_GROUPS: tl.constexpr,
    INTEGERS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One tile of y, or where SPLIT of its parts: [splits, columns or, of floats, tokens, out_features].

    Args:
        weight: blocks [out_features][row_blocks][128], of which the first digits, WIDTHS, are multiplied.
        codes: int8 [sets][columns][padded], with PER_TOKEN (1 or 2) columns per token; padded is
            in_features rounded up to whole spans.
        scales, offsets: [out_features, groups] or None, as in the checkpoint.
        token_scales: float32 [sets][tokens] or, with TOKEN_GROUPS, [sets][tokens][padded / 128].
        rests, sums: what the stored digits lack, and what offsets are multiplied by: per token and unit where
            GROUP_UNITS > 0, else per token.
        split_spans: spans of 1024 inputs of a split.
        factor: see `finish`.
        UNIT: inputs of a product, 128 or, where groups are not multiples of that, 32.
        GROUP_UNITS: units of a scale; 0: the row has one scale at most.
        INTEGERS: sums are int32 over the whole row.
    """
    BYTES: tl.constexpr = 128  # of a block
    TOKENS: tl.constexpr = BLOCK_COLUMNS // PER_TOKEN
    segment, first_row, end = segment_of(tl.program_id(1), SEGMENTS, BLOCK_ROWS)
    set_ = segment if SETS > 1 else 0
    padded = tl.cdiv(in_features, SPAN_INPUTS) * SPAN_INPUTS
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    stored = tl.minimum(rows, end - 1).to(tl.int64)
    blocks = weight + stored * (row_blocks * BYTES)
    first_token = tl.program_id(0) * TOKENS
    token = first_token + tl.arange(0, TOKENS)
    columns = tl.cast(tokens, tl.int64) * PER_TOKEN
    column = first_token * PER_TOKEN + tl.arange(0, BLOCK_COLUMNS)
    exist = column < columns
    inputs = codes + (set_ * columns + column) * padded
    first_span = tl.program_id(2) * split_spans

    # Whether registers allow to unroll a whole span.
    LIGHT: tl.constexpr = (offsets is None or GROUP_UNITS == 0) and len(WIDTHS) == 1
    if INTEGERS:
        total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    else:
        total = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
        member = set_ * tl.cast(tokens, tl.int64) + token
        unit_values = member * (padded // UNIT)
        row_values = stored * groups
    for p in tl.static_range(len(WIDTHS)):
        count = tl.cdiv(in_features * WIDTHS[p], SPAN_INPUTS)
        first = first_span * WIDTHS[p]
        last = tl.minimum(first + split_spans * WIDTHS[p], count)
        if INTEGERS:
            total = (total << WIDTHS[p]) + _whole_pass(
                blocks, inputs, exist, first, last, WIDTHS[p], BLOCK_ROWS, BLOCK_COLUMNS
            )
        else:
            total = _scaled_pass(
                total * 2.0 ** WIDTHS[p],
                blocks,
                inputs,
                exist,
                first,
                last,
                scales + row_values if GROUP_UNITS > 0 else None,
                offsets + row_values if GROUP_UNITS > 0 and offsets is not None else None,
                groups,
                token_scales + member * (padded // 128 if TOKEN_GROUPS else 1),
                rests + unit_values,
                sums + unit_values,
                token < tokens,
                WIDTHS[p],
                UNIT,
                GROUP_UNITS,
                TOKEN_GROUPS,
                p + 1 == len(WIDTHS),
                WIDTHS[p] if LIGHT else (WIDTHS[p] + 1) // 2,
                PER_TOKEN,
            )
        blocks += count * BYTES

    if SPLIT:
        row, across, width_ = (
            rows,
            column if INTEGERS else token,
            columns if INTEGERS else tl.cast(tokens, tl.int64),
        )
        at = y + (tl.program_id(2) * width_ + across)[None, :] * out_features + row[:, None]
        tl.store(at, total, (rows < end)[:, None] & (across < width_)[None, :])
    else:
        finish(
            join_columns(total.to(tl.int64), PER_TOKEN) if INTEGERS else total,
            rows, end, set_, token, scales, offsets, token_scales, rests, sums, gates, out_scales, bias, y,
            tokens, out_features, factor, EXPERTS, INTEGERS, scales is not None and GROUP_UNITS == 0,
            GROUP_UNITS == 0 and not INTEGERS,
        )  # fmt: skip
