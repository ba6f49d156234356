"""Products of integer activations with digit blocks for few tokens: GEMV.

    program (column tile, row tile, split)    BLOCK_ROWS x BLOCK_COLUMNS sums over the spans of one split

Weights stay packed. A field is masked where it lies and multiplied by 128 (UNIT) inputs in their own order,
so its sum counts 2^(w f) times (lowbit.backends.triton_layout). That is undone

    whole rows             after the row: every field has an accumulator of its own
    scales inside a row    with the conversion to float, or in the scale
    sums that are floats   in the scales of the activations (subnormal.py)

Nothing is masked in the loops but columns: rows beyond the last one repeat it, blocks are whole, and behind
the last row lie blocks for turns that lead beyond it (spare_blocks).
"""

import triton
import triton.language as tl

from .epilogue import join_columns, leave, segment_of
from .fields import field_of, start_of, value_of
from .row_scales import of_quads, of_rows, quads_of
from .sizes import SIZES
from .subnormal import add_groups, add_rows, scales_of

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
    # A span at a time; of blocks behind the last one the inputs are 0.
    for turn in range(first, last, WIDTH):
        for i in tl.static_range(WIDTH):
            # An address for each block: distances from one for the turn take registers that W8A8 has not.
            own_blocks = blocks + (turn + i) * BYTES
            own_inputs = inputs + (turn + i) * (FIELDS * BYTES)
            packed = tl.load(own_blocks[:, None] + byte[None, :])
            added = ()
            for field in tl.static_range(FIELDS):
                part = field_of(packed, field, WIDTH)
                own = tl.load(own_inputs[None, :] + (field * BYTES + byte)[:, None], exist[None, :], 0)
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
    scales,
    offsets,
    row_groups,
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
    QUADS: tl.constexpr,
):
    """total + products with one digit over the blocks first .. last - 1, scaled after every UNIT inputs.

    With RESTS the share of rests and offsets is added as well.
    """
    FIELDS: tl.constexpr = 8 // WIDTH
    BYTES: tl.constexpr = 128  # of a block
    CHUNKS: tl.constexpr = BYTES // UNIT
    byte = tl.arange(0, UNIT)
    scale = tl.load(token_scales, tokens_exist, 0.0)
    # A turn has one address of each kind, and constant distances from there; its chunks are of one block, or
    # whole blocks. Of blocks behind the last one the inputs are 0.
    for turn in range(first * CHUNKS, last * CHUNKS, UNROLL):
        block = turn // CHUNKS
        within = turn % CHUNKS
        own_blocks = blocks + turn * UNIT
        own_inputs = inputs + (block * (FIELDS * BYTES) + within * UNIT)
        first_unit = block * (FIELDS * CHUNKS) + within
        own_rests = rests + first_unit
        own_sums = sums + first_unit
        own_token_scales = token_scales + block * FIELDS
        if QUADS:
            scale_quads = ()
            offset_quads = ()
            for quad in tl.static_range(UNROLL * FIELDS // 4):
                four = (turn * FIELDS >> 2) + quad
                scale_quads = scale_quads + (quads_of(scales, row_groups, four),)  # type: ignore[assignment]  # noqa: RUF005
                if offsets is not None:
                    offset_quads = offset_quads + (quads_of(offsets, row_groups, four),)  # type: ignore[assignment]  # noqa: RUF005
        for i in tl.static_range(UNROLL):
            packed = tl.load(own_blocks[:, None] + (i * UNIT + byte)[None, :])
            for field in tl.static_range(FIELDS):
                group = i // CHUNKS * FIELDS + field  # of this turn
                unit = group * CHUNKS + i % CHUNKS
                at = own_inputs[None, :] + (byte + (group * BYTES + i % CHUNKS * UNIT))[:, None]
                part = field_of(packed, field, WIDTH)
                value = unit_sums(part, tl.load(at, exist[None, :], 0), PER_TOKEN)
                if TOKEN_GROUPS:
                    scale = tl.load(own_token_scales + group, tokens_exist, 0.0)
                own_scale = (scale * 0.5 ** (WIDTH * field))[None, :]
                if GROUP_UNITS == 0:
                    total += value * own_scale
                else:
                    # Behind the last group there are only inputs that do not exist.
                    own_group = tl.minimum((first_unit + unit) // GROUP_UNITS, groups - 1)
                    value *= own_scale
                    if RESTS:
                        value += tl.load(own_rests + unit, tokens_exist, 0.0)[None, :]
                        if offsets is not None:
                            if QUADS:
                                offset = of_quads(
                                    offset_quads,
                                    (i // CHUNKS * FIELDS + field) * CHUNKS + i % CHUNKS,
                                    offsets,
                                )
                            else:
                                offset = of_rows(offsets, row_groups, own_group).to(tl.float32)
                            value += offset[:, None] * tl.load(own_sums + unit, tokens_exist, 0.0)[None, :]
                    if QUADS:
                        row_scale = of_quads(
                            scale_quads, (i // CHUNKS * FIELDS + field) * CHUNKS + i % CHUNKS, scales
                        )
                    else:
                        row_scale = of_rows(scales, row_groups, own_group).to(tl.float32)
                    total += value * row_scale[:, None]
    return total


@triton.jit
def unit_sums(part, own, PER_TOKEN: tl.constexpr):
    """Products of a field with 128 codes, float32 [rows, tokens]."""
    if PER_TOKEN == 1:
        start = start_of(part.shape[0], own.shape[1])
        value = value_of(tl.dot(part, own, start, out_dtype=tl.int32))
    else:
        # 128 inputs * 128 * 32639 fits.
        value = join_columns(tl.dot(part, own, out_dtype=tl.int32), PER_TOKEN).to(tl.float32)
    return value


@triton.jit(do_not_specialize=SIZES)
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
    SUBNORMAL: tl.constexpr,
    QUADS: tl.constexpr,
    HALVED: tl.constexpr,
    ROW_PARTS: tl.constexpr,
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
        token_scales: float32 [sets][tokens] or, with TOKEN_GROUPS, [sets][tokens][padded / 128], and where
            SUBNORMAL what subnormal.py draws, with the rests.
        rests, sums: what the stored digits lack, and what offsets are multiplied by: per token and unit where
            GROUP_UNITS > 0, else per token.
        split_spans: spans of 1024 inputs of a split.
        factor: see `finish`.
        UNIT: inputs of a product: 128 or, where groups are not multiples of that, 64 or 32.
        GROUP_UNITS: units of a scale; 0: the row has one scale at most.
        QUADS: a scale has UNIT inputs, and turns of the loops multiples of four scales of the row: they are
            read four at a time.
        HALVED: loops take half a span at a time, where digits have several bits, else a whole one.
        ROW_PARTS: parts in which the scales of rows are read (1 or 2), see `of_rows`.
        INTEGERS: sums are int32 over the whole row.
    """
    BYTES: tl.constexpr = 128  # of a block
    TOKENS: tl.constexpr = BLOCK_COLUMNS // PER_TOKEN
    segment, first_row, end = segment_of(tl.program_id(1), out_features, SEGMENTS, BLOCK_ROWS)
    set_ = segment if SETS > 1 else 0
    padded = tl.cdiv(in_features, SPAN_INPUTS) * SPAN_INPUTS
    rows = first_row + tl.arange(0, BLOCK_ROWS)
    blocks = weight + tl.cast(first_row, tl.int64) * (row_blocks * BYTES)
    blocks += tl.minimum(tl.arange(0, BLOCK_ROWS), end - 1 - first_row) * (row_blocks * BYTES)
    first_token = tl.program_id(0) * TOKENS
    token = first_token + tl.arange(0, TOKENS)
    columns = tl.cast(tokens, tl.int64) * PER_TOKEN
    column = first_token * PER_TOKEN + tl.arange(0, BLOCK_COLUMNS)
    exist = column < columns
    inputs = codes + (set_ * columns + column) * padded
    first_span = tl.program_id(2) * split_spans

    if INTEGERS:
        total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    else:
        total = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
    if SUBNORMAL:
        staged = scales_of(
            token_scales, set_, SETS, tokens, first_token, padded // SPAN_INPUTS, GROUP_UNITS > 0
        )
        staged += tl.arange(0, BLOCK_COLUMNS)
    elif not INTEGERS:
        member = set_ * tl.cast(tokens, tl.int64) + token
        unit_values = member * (padded // UNIT)
    if not INTEGERS:
        PART: tl.constexpr = BLOCK_ROWS // ROW_PARTS
        part = first_row + tl.arange(0, PART)
        row_groups = (tl.minimum(part, end - 1).to(tl.int64) * groups,)
        if ROW_PARTS == 2:
            row_groups = row_groups + (tl.minimum(part + PART, end - 1).to(tl.int64) * groups,)  # type: ignore[assignment]  # noqa: RUF005
    for p in tl.static_range(len(WIDTHS)):
        count = tl.cdiv(in_features * WIDTHS[p], SPAN_INPUTS)
        first = first_span * WIDTHS[p]
        last = tl.minimum(first + split_spans * WIDTHS[p], count)
        if INTEGERS:
            total = (total << WIDTHS[p]) + _whole_pass(
                blocks, inputs, exist, first, last, WIDTHS[p], BLOCK_ROWS, BLOCK_COLUMNS
            )
        elif SUBNORMAL and GROUP_UNITS == 0:
            total = add_rows(total, blocks, inputs, exist, first, last, staged)
        elif SUBNORMAL:
            total = add_groups(
                total,
                blocks,
                inputs,
                exist,
                first,
                last,
                staged,
                scales,
                row_groups,
                groups,
                WIDTHS[p],
                GROUP_UNITS,
                (WIDTHS[p] + 1) // 2 if HALVED else WIDTHS[p],
                QUADS,
            )
        else:
            total = _scaled_pass(
                total * 2.0 ** WIDTHS[p],
                blocks,
                inputs,
                exist,
                first,
                last,
                scales,
                offsets,
                row_groups,
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
                (WIDTHS[p] + 1) // 2 if HALVED else WIDTHS[p],
                PER_TOKEN,
                QUADS,
            )
        blocks += count * BYTES

    leave(
        total, rows, end, set_, token, column, scales, offsets, token_scales, rests, sums, gates, out_scales,
        bias, y, tokens, out_features, factor, EXPERTS, INTEGERS, GROUP_UNITS, PER_TOKEN, SPLIT, SUBNORMAL,
    )  # fmt: skip
