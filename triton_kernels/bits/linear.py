"""The product of x [M, K] with a layer: which kernels run, with what workspace."""

from __future__ import annotations

from typing import Any

import torch
from lowbit.backends.triton_layout import row_blocks
from torch import Tensor

from ..gpu import Gpu, gpu_of
from .call import Call
from .config import SPAN_INPUTS, Config, Product, config, row_tiles
from .epilogue import combine
from .exact import exact
from .gemm import gemm
from .layer import BitsLayer
from .product import product
from .staging import Columns, Kind, stage

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
    own = product_of(layer, kind)
    plan = config(own, x.shape[0], gpu)
    integers = own.form == "integers"
    subnormal = own.subnormal and plan.kernel == "product"
    columns, prologue = stage(x, layer, kind, own.unit if layer.grouped else 0, integers, subnormal)
    if plan.splits == 1:
        return [prologue, _product(y, layer, kind, columns, plan, own, gpu)]
    parts = torch.empty(
        plan.splits,
        x.shape[0] * (kind.columns if integers else 1),
        layer.out_features,
        dtype=torch.int32 if integers else torch.float32,
        device=x.device,
    )
    return [
        prologue,
        _product(parts, layer, kind, columns, plan, own, gpu),
        _combine(y, parts, layer, kind, columns, integers, subnormal),
    ]


def product_of(layer: BitsLayer, kind: Kind) -> Product:
    """What tiles are chosen for."""
    if kind.exact:
        form = "exact"
    elif layer.grouped or kind.by_groups or layer.in_features > MAX_WHOLE_INPUTS:
        form = "scaled"
    else:
        form = "integers"
    return Product(
        form,
        layer.segments,
        layer.in_features,
        layer.widths,
        kind.columns,
        layer.group_size if layer.grouped else -1,
        layer.offsets is not None,
        kind.by_groups,
    )


def _factor(layer: BitsLayer, integers: bool) -> int | float:
    """What turns a sum into a value: `finish` in epilogue.py."""
    return 1 << layer.dropped_bits if integers else 2.0 ** (layer.dropped_bits + 1)


def _product(
    target: Tensor, layer: BitsLayer, kind: Kind, columns: Columns, plan: Config, own: Product, gpu: Gpu
) -> Call:
    unit, integers = own.unit, own.form == "integers"
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
        "SEGMENTS": layer.segments[:-1],
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
    # One-bit digits with 16 columns have so many sums that registers do not hold all else.
    crowded = plan.block_columns > 8 and 1 in layer.widths
    constexprs |= {
        "SUBNORMAL": own.subnormal,
        "QUADS": not crowded and _in_fours(layer, own),
        "HALVED": own.halved,
        "ROW_PARTS": 2 if plan.block_rows >= gpu.lanes * plan.warps and not crowded else 1,
    }
    return Call(product, grid, arguments, constexprs, options)


def _in_fours(layer: BitsLayer, own: Product) -> bool:
    """Whether scales are of a unit each, and turns of the loops have whole fours of them, side by side."""
    if layer.scales is None or own.group_size != own.unit:
        return False
    return (
        layer.scales.element_size() == 2  # four lie in one 8-byte load, aligned
        and layer.scales.storage_offset() % 4 == 0
        and (layer.offsets is None or layer.offsets.storage_offset() % 4 == 0)
        and own.whole_turns
        and all(own.turn_inputs(width) >= SPAN_INPUTS // width for width in own.widths)  # whole blocks
    )


def _combine(
    y: Tensor,
    parts: Tensor,
    layer: BitsLayer,
    kind: Kind,
    columns: Columns,
    integers: bool,
    subnormal: bool,
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
        "SEGMENTS": layer.segments[:-1],
        "SETS": layer.sets,
        "EXPERTS": layer.experts,
        "INTEGERS": integers,
        "ROW_SCALES": layer.scales is not None and not layer.grouped,
        "ROW_RESTS": not (layer.grouped or integers or kind.exact),
        "SUBNORMAL": subnormal,
        "PER_TOKEN": kind.columns if integers else 1,
        "BLOCK_ROWS": COMBINED_ROWS,
        "BLOCK_TOKENS": COMBINED_TOKENS,
    }
    grid = (-(-tokens // COMBINED_TOKENS), row_tiles(layer.segments, COMBINED_ROWS))
    # Of four warps ptxas takes 32 registers a thread on sm_90 and spills two.
    return Call(combine, grid, arguments, constexprs, {"num_warps": 8})
