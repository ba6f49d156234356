"""The product of x [M, K] with a layer: which kernels run, with what workspace."""

from __future__ import annotations

from functools import cache

import torch
from lowbit.backends.triton_layout import row_blocks
from torch import Tensor

from ..launch import launch
from .config import Config, config, row_tiles
from .epilogue import combine
from .exact import exact
from .layer import BitsLayer
from .product import product
from .staging import Columns, Kind, stage

EXACT_UNIT = 32  # inputs that `exact` multiplies at a time, a divisor of every group
# Largest K whose sums over the row fit int32: codes of 8 bits times s8 columns, 255 * 128 * K < 2^31.
MAX_WHOLE_INPUTS = 65536


def bits_linear(x: Tensor, layer: BitsLayer, precision: int, activation_bits: int) -> Tensor:
    """y [M, N] in x's dtype. Nothing is launched for no tokens."""
    kind = Kind(precision, activation_bits)
    tokens = x.shape[0]
    y = torch.empty(tokens, layer.out_features, dtype=x.dtype, device=x.device)
    if tokens == 0:
        return y
    if kind.exact:
        form, unit = "exact", EXACT_UNIT
    elif layer.grouped or kind.by_groups or layer.in_features > MAX_WHOLE_INPUTS:
        form, unit = "scaled", 32 if layer.grouped and layer.group_size % 128 else 128
    else:
        form, unit = "integers", 128
    integers = form == "integers"
    plan = config(
        layer.segments,
        layer.in_features,
        tokens,
        kind.columns,
        multiprocessors(x.device),
        form,
        max(layer.widths),
    )
    columns = stage(x, layer, kind, unit if layer.grouped else 0, integers)
    if plan.splits == 1:
        target = y
    else:
        parts = tokens * (kind.columns if integers else 1)
        shape = (plan.splits, parts, layer.out_features)
        target = torch.empty(shape, dtype=torch.int32 if integers else torch.float32, device=x.device)
    _multiply(target, layer, kind, columns, plan, unit, integers, tokens)
    if plan.splits > 1:
        _combine(y, target, layer, kind, columns, plan, integers)
    return y


@cache
def multiprocessors(device: torch.device) -> int:
    """Of the GPU; where kernels are interpreted, as many as an H100 has."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def _factor(layer: BitsLayer, kind: Kind, integers: bool) -> int | float:
    """What turns a sum into a value: `finish` in epilogue.py."""
    if kind.exact:
        return 1.0
    return 1 << layer.dropped_bits if integers else 2.0 ** (layer.dropped_bits + 1)


def _multiply(
    target: Tensor,
    layer: BitsLayer,
    kind: Kind,
    columns: Columns,
    plan: Config,
    unit: int,
    integers: bool,
    tokens: int,
) -> None:
    grid = (
        -(-tokens * kind.columns // plan.block_columns),
        row_tiles(layer.segments, plan.block_rows),
        plan.splits,
    )
    sizes = (
        layer.out_features,
        layer.in_features,
        row_blocks(layer.in_features, layer.stored_widths),
        layer.scales.shape[1] if layer.scales is not None else 1,
        plan.split_spans,
    )
    common = {
        "SEGMENTS": layer.segments,
        "SETS": layer.sets,
        "EXPERTS": layer.experts,
        "WIDTHS": layer.widths,
        "UNIT": unit,
        "GROUP_UNITS": layer.group_size // unit if layer.grouped else 0,
        "SPLIT": plan.splits > 1,
        "BLOCK_ROWS": plan.block_rows,
        "BLOCK_COLUMNS": plan.block_columns,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
    }
    ends = (columns.gates, layer.out_scales, layer.bias, target, tokens)
    if kind.exact:
        launch(
            exact,
            grid,
            layer.weight,
            columns.codes,
            layer.scales,
            layer.offsets,
            *ends,
            *sizes,
            BITS=layer.bits,
            DROPPED=layer.dropped_bits,
            **common,
        )
        return
    launch(
        product,
        grid,
        layer.weight,
        columns.codes,
        layer.scales,
        layer.offsets,
        columns.token_scales,
        columns.rests,
        columns.sums,
        *ends,
        *sizes,
        _factor(layer, kind, integers),
        TOKEN_GROUPS=kind.by_groups,
        INTEGERS=integers,
        PER_TOKEN=kind.columns,
        **common,
    )


def _combine(
    y: Tensor, parts: Tensor, layer: BitsLayer, kind: Kind, columns: Columns, plan: Config, integers: bool
) -> None:
    rows, width = 64, 8
    launch(
        combine,
        (-(-y.shape[0] // width), row_tiles(layer.segments, rows)),
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
        y.shape[0],
        layer.out_features,
        plan.splits,
        _factor(layer, kind, integers),
        SEGMENTS=layer.segments,
        SETS=layer.sets,
        EXPERTS=layer.experts,
        INTEGERS=integers,
        ROW_SCALES=layer.scales is not None and not layer.grouped,
        ROW_RESTS=not (layer.grouped or integers or kind.exact),
        PER_TOKEN=kind.columns if integers else 1,
        BLOCK_ROWS=rows,
        BLOCK_TOKENS=width,
        num_warps=4,
    )
