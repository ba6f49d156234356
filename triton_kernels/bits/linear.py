"""The product of x [M, K] with a layer: which kernels run, with what workspace."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from lowbit.backends.triton_layout import row_blocks
from torch import Tensor

from ..gpu import Gpu, gpu_of
from .call import Call
from .config import SPAN_INPUTS, Config, config, row_tiles
from .epilogue import combine
from .exact import exact
from .gemm import gemm
from .layer import BitsLayer
from .product import product
from .staging import GROUP_INPUTS, Columns, Kind, stage

EXACT_UNIT = 32  # inputs that `exact` multiplies at a time, a divisor of every group
# Largest K whose sums over the row fit int32: codes of 8 bits times s8 columns, 255 * 128 * K < 2^31.
MAX_WHOLE_INPUTS = 65536
COMBINED_ROWS, COMBINED_TOKENS = 64, 8  # tile of `combine`


def bits_linear(x: Tensor, layer: BitsLayer, precision: int, activation_bits: int) -> Tensor:
    """y [M, N] in x's dtype. Nothing is launched for no tokens."""
    y = torch.empty(x.shape[0], layer.out_features, dtype=x.dtype, device=x.device)
    if x.shape[0] > 0:
        kind = Kind(precision, activation_bits)
        for call in calls(x, layer, kind, y, gpu_of(x.device)):
            call.run()
    return y


def calls(x: Tensor, layer: BitsLayer, kind: Kind, y: Tensor, gpu: Gpu) -> list[Call]:
    """The kernels that compute y: prologue, product and, where rows are split, the sum of the parts."""
    tokens = x.shape[0]
    if kind.exact:
        form, unit = "exact", EXACT_UNIT
    elif layer.grouped or kind.by_groups or layer.in_features > MAX_WHOLE_INPUTS:
        form, unit = "scaled", gcd(layer.group_size, GROUP_INPUTS) if layer.grouped else GROUP_INPUTS
    else:
        form, unit = "integers", GROUP_INPUTS
    integers = form == "integers"
    scales = _scales(layer, kind)
    offsets = layer.grouped and layer.offsets is not None
    plan = config(
        layer.segments, layer.in_features, tokens, kind.columns, gpu, form, layer.widths, scales, offsets
    )
    columns, prologue = stage(x, layer, kind, unit if layer.grouped else 0, integers)
    if plan.splits == 1:
        return [prologue, _product(y, layer, kind, columns, plan, unit, integers)]
    parts = torch.empty(
        plan.splits,
        tokens * (kind.columns if integers else 1),
        layer.out_features,
        dtype=torch.int32 if integers else torch.float32,
        device=x.device,
    )
    return [
        prologue,
        _product(parts, layer, kind, columns, plan, unit, integers),
        _combine(y, parts, layer, kind, columns, integers),
    ]


def _scales(layer: BitsLayer, kind: Kind) -> str:
    """In words, those inside a row and offsets, which cost loads and registers."""
    groups = f", groups of {layer.group_size}" if layer.grouped else ""
    offsets = ", offsets" if layer.offsets is not None else ""
    return groups + offsets + (", fast" if kind.by_groups else "")


def _factor(layer: BitsLayer, integers: bool) -> int | float:
    """What turns a sum into a value: `finish` in epilogue.py."""
    return 1 << layer.dropped_bits if integers else 2.0 ** (layer.dropped_bits + 1)


def _product(
    target: Tensor, layer: BitsLayer, kind: Kind, columns: Columns, plan: Config, unit: int, integers: bool
) -> Call:
    tokens = columns.codes.shape[1] // kind.columns
    grid = (
        -(-tokens * kind.columns // plan.block_columns),
        row_tiles(layer.segments, plan.block_rows),
        plan.splits,
    )
    sizes = (
        tokens,
        layer.out_features,
        layer.in_features,
        row_blocks(layer.in_features, layer.stored_widths),
        layer.scales.shape[1] if layer.scales is not None else 1,
        plan.split_spans,
    )
    weights = (layer.weight, columns.codes, layer.scales, layer.offsets)
    ends = (columns.gates, layer.out_scales, layer.bias, target)
    constexprs: dict[str, Any] = {
        "SEGMENTS": layer.segments,
        "SETS": layer.sets,
        "EXPERTS": layer.experts,
        "WIDTHS": layer.widths,
        "UNIT": unit,
        "GROUP_UNITS": layer.group_size // unit if layer.grouped else 0,
        "SPLIT": plan.splits > 1,
        "BLOCK_ROWS": plan.block_rows,
        "BLOCK_COLUMNS": plan.block_columns,
    }
    options = {"num_warps": plan.warps, "num_stages": plan.stages}
    if kind.exact:
        constexprs |= {"BITS": layer.bits, "DROPPED": layer.dropped_bits}
        return Call(exact, grid, (*weights, *ends, *sizes), constexprs, options)
    constexprs |= {"TOKEN_GROUPS": kind.by_groups, "INTEGERS": integers, "PER_TOKEN": kind.columns}
    prepared = (columns.token_scales, columns.rests, columns.sums)
    arguments = (*weights, *prepared, *ends, *sizes, _factor(layer, integers))
    if plan.kernel == "gemm":
        return Call(gemm, grid, arguments, constexprs, options)
    # Registers do not hold the scales of a span, or not of a whole one, beside all the rest: one-bit digits
    # with 16 columns have the most sums.
    crowded = plan.block_columns > 8 and 1 in layer.widths
    halved = (layer.grouped and (unit == GROUP_INPUTS or layer.offsets is not None)) or len(layer.widths) > 1
    halved = halved and not integers
    constexprs |= {
        "QUADS": not crowded and _in_fours(layer, unit, halved),
        "HALVED": halved,
        "ROW_PARTS": 2 if plan.block_rows >= 32 * plan.warps and not crowded else 1,
    }
    return Call(product, grid, arguments, constexprs, options)


def _in_fours(layer: BitsLayer, unit: int, halved: bool) -> bool:
    """Whether scales are of a unit each, and turns of the loops have whole fours of them, side by side."""
    if layer.scales is None or not layer.grouped or layer.group_size != unit:
        return False
    turns = {width: turn_inputs(width, unit, halved) for width in layer.widths}
    return (
        layer.scales.element_size() == 2  # four lie in one 8-byte load, aligned
        and layer.scales.storage_offset() % 4 == 0
        and (layer.offsets is None or layer.offsets.storage_offset() % 4 == 0)
        and layer.in_features % max(turns.values()) == 0
        and all(turn >= SPAN_INPUTS // width for width, turn in turns.items())  # whole blocks
    )


def turn_inputs(width: int, unit: int, halved: bool) -> int:
    """Inputs that the loop of `product` over a digit multiplies in a turn."""
    chunks = (width + 1) // 2 if halved else width
    return chunks * unit * 8 // width


def _combine(
    y: Tensor, parts: Tensor, layer: BitsLayer, kind: Kind, columns: Columns, integers: bool
) -> Call:
    tokens = y.shape[0]
    arguments = (
        parts,
        layer.scales,
        None if kind.exact else layer.offsets,
        columns.token_scales,
        columns.rests,
        columns.sums,
        columns.gates,
        layer.out_scales,
        layer.bias,
        y,
        tokens,
        layer.out_features,
        parts.shape[0],
        1.0 if kind.exact else _factor(layer, integers),
    )
    constexprs = {
        "SEGMENTS": layer.segments,
        "SETS": layer.sets,
        "EXPERTS": layer.experts,
        "INTEGERS": integers,
        "ROW_SCALES": layer.scales is not None and not layer.grouped,
        "ROW_RESTS": not (layer.grouped or integers or kind.exact),
        "PER_TOKEN": kind.columns if integers else 1,
        "BLOCK_ROWS": COMBINED_ROWS,
        "BLOCK_TOKENS": COMBINED_TOKENS,
    }
    grid = (-(-tokens // COMBINED_TOKENS), row_tiles(layer.segments, COMBINED_ROWS))
    return Call(combine, grid, arguments, constexprs, {"num_warps": 4})
