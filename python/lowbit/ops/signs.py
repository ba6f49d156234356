"""Family signs: y = (((x * in_mix) B^T) * out_mix) + bias with signs B, by segments that share x."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit import backends
from lowbit.errors import FormatError, ShapeError
from lowbit.formats import PRECISIONS, Signs, prepare_activations
from lowbit.ops import _gradients, _layouts, _registration
from lowbit.ops._arguments import (
    FLOAT_DTYPES,
    check_groups,
    check_input,
    check_tensor,
    check_width,
    choose,
    precision_code,
)


def signs_linear(
    x: Tensor,
    weight: Tensor,
    *,
    scales: Tensor | None = None,
    router: Tensor | None = None,
    in_scales: Tensor | None = None,
    out_scales: Tensor | None = None,
    bias: Tensor | None = None,
    segments: Sequence[int] | None = None,
    out_features: int | None = None,
    group_size: int = -1,
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = (((x * (g in_scales)) B^T) * (g out_scales)) + bias, with the gates g = softmax(x router^T).

    That is BinaryMoS (arXiv 2406.12311); without router OneBit (arXiv 2402.11295); without both scales plain
    signs. Layers with the same input may be fused: `segments` lists their output sizes; their weights, scales
    and biases lie one below the other, each has its own router and input scales.

    Args:
        x: float [..., K].
        weight: signs, uint8 [N, ceil(K/8)], or the kernels' tiles: [T, 1, ceil(K/32), 64, 4] on the CPU
            (lowbit.backends.cpu.tile_bits), [1, 1, words, 16] for CUDA C++ (.cuda.repack_bits), or
            [1, 1, blocks, 128] for Triton (.triton_layout.lay_out_bits); each segment starts a new tile.
        scales: [N, ceil(K/group_size)], or tiled as the weight is; None is ones.
        router, in_scales: [E, K], or [segments, E, K]. No router for E = 1 (OneBit).
        out_scales: [E, N].
        bias: [N].
        segments: output sizes of the fused layers; default: one layer.
        out_features: N; needed with tiles when nothing else tells it.
        group_size: inputs per scale, -1 (whole row) or a positive multiple of 32.
        precision: "fast", "high", "exact"; None is "fast" on the CPU and "high" elsewhere.
        backend: force one; None takes the first that can run.

    Returns:
        [..., N] in x's dtype.

    Raises:
        FormatError: an argument does not fit (ShapeError, DtypeError, ValueRangeError).
        BackendError: the forced backend cannot run it.
    """
    in_features = x.shape[-1] if x.dim() else 0
    check_input(x, in_features)
    code = precision_code(precision, x)
    parts = list(segments or [])
    tiled = _layouts.is_tiled(weight)
    rows = _out_features(weight, tiled, parts, out_features, bias, out_scales)
    if not tiled:
        if weight.dim() != 2:
            raise ShapeError(
                "wrong shape of the weight",
                found=list(weight.shape),
                allowed="[N, ceil(K/8)] or the kernels' tiles",
            )
        check_width(weight.shape[1], in_features)
        check_tensor("weight", weight, weight.shape, (torch.uint8,))
        check_groups("scales", scales, rows, in_features, group_size)
    check_mix(router, in_scales, out_scales, len(parts), in_features, rows)
    check_tensor("bias", bias, (rows,), FLOAT_DTYPES)
    name = choose("signs", x.device.type, x.dtype, backend)
    if tiled and name == "torch":
        weight, scales = _untile(weight, scales, parts or [rows], in_features, group_size)
    elif not tiled and name != "torch":
        weight, scales = _tile(name, weight, scales, parts or [rows], in_features, group_size)
    operator = backends.get(name).operator("signs")
    mix = (router, in_scales, out_scales)
    return operator(x, weight, scales, *mix, bias, parts, in_features, rows, group_size, code)


def _out_features(
    weight: Tensor,
    tiled: bool,
    segments: list[int],
    given: int | None,
    bias: Tensor | None,
    out_scales: Tensor | None,
) -> int:
    if not tiled:
        rows = weight.shape[0]
    elif given is not None:
        rows = given
    elif segments:
        rows = sum(segments)
    elif bias is not None:
        rows = bias.shape[0]
    elif out_scales is not None:
        rows = out_scales.shape[-1]
    else:
        raise ShapeError("tiles are padded and do not tell the number of rows", allowed="out_features=N")
    if segments and (min(segments) < 1 or sum(segments) != rows):
        raise ShapeError(
            "segments of 1 or more do not add up to the rows of the weight", found=segments, allowed=rows
        )
    if given is not None and given != rows:
        raise ShapeError("out_features is not the number of rows of the weight", found=given, allowed=rows)
    return rows


def check_mix(
    router: Tensor | None,
    in_scales: Tensor | None,
    out_scales: Tensor | None,
    segments: int,
    in_features: int,
    out_features: int,
) -> None:
    """Raise a typed error unless router, input and output scales are those of E experts."""
    if in_scales is None or out_scales is None:
        alone = {"router": router, "in_scales": in_scales, "out_scales": out_scales}
        found = [name for name, tensor in alone.items() if tensor is not None]
        if found:
            raise FormatError(
                "in_scales and out_scales belong together, and a router to both",
                found=", ".join(found),
                allowed="in_scales and out_scales, or neither",
            )
        return
    experts = out_scales.shape[0] if out_scales.dim() else 0
    per_segment: tuple[int, ...] = (experts, in_features)
    if segments > 1 or in_scales.dim() == 3:
        per_segment = (max(segments, 1), *per_segment)
    check_tensor("in_scales", in_scales, per_segment)
    check_tensor("out_scales", out_scales, (experts, out_features))
    if experts < 1 or (router is None and experts > 1):
        raise FormatError("experts need a router", found=f"{experts} without", allowed="a router for E >= 2")
    check_tensor("router", router, per_segment)


def _slices(segments: Sequence[int]) -> Iterator[slice]:
    """Rows of each segment."""
    row = 0
    for size in segments:
        yield slice(row, row + size)
        row += size


def _tile(
    name: str,
    weight: Tensor,
    scales: Tensor | None,
    segments: Sequence[int],
    in_features: int,
    group_size: int,
) -> tuple[Tensor, Tensor | None]:
    layout, parts = _layouts.of(name), list(_slices(segments))
    tiles = layout.join([layout.tile(weight[rows], in_features) for rows in parts])
    if scales is None:
        return tiles, None
    return tiles, torch.cat([layout.tile_groups(scales[rows], in_features, group_size) for rows in parts])


def _untile(
    tiles: Tensor, scales: Tensor | None, segments: Sequence[int], in_features: int, group_size: int
) -> tuple[Tensor, Tensor | None]:
    layout, sizes = _layouts.of_weight(tiles), list(segments)
    assert layout is not None
    bits, groups = [], []
    for index, rows in enumerate(sizes):
        bits.append(layout.untile(layout.segment(tiles, in_features, sizes, index), in_features, rows)[0])
        if scales is not None:
            own = layout.segment_groups(scales, sizes, index)
            groups.append(layout.untile_groups(own, in_features, rows, group_size))
    return torch.cat(bits), torch.cat(groups) if groups else None


def register(prefix: str = "lowbit::", out: bool = True) -> None:
    """Fakes and gradients of the operator <prefix><kind>_linear; `out`: with `_out` twins."""
    _registration.register(f"{prefix}signs_linear", _fake, 6, _gradient, out)


def _fake(x: Tensor, *args: Any) -> Tensor:
    out_features = args[8]
    return x.new_empty(*x.shape[:-1], out_features)


def _gradient(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """With z = x * (g S_in), u = z B^T and y = u * (g S_out):

    dz = (dy * (g S_out)) B,  dg = (dy * u) S_out^T + (dz * x) S_in^T,
    dx = dz * (g S_in) + softmax'(dg) R
    """
    _, tiles, scales, router, in_scales, out_scales, _, segments, in_features, out_features, group, code = (
        inputs
    )
    sizes = segments or [out_features]
    weight, scales = _untile(tiles, scales, sizes, in_features, group)
    dx = torch.zeros_like(x)
    for index, rows in enumerate(_slices(sizes)):
        part_scales = None if scales is None else scales[rows]
        signs = Signs(weight[rows], in_features, part_scales, group)
        if in_scales is None:
            dx += _gradients.times_weight(dy[:, rows], signs, signs._expand)
            continue
        mix_in = in_scales.reshape(-1, *in_scales.shape[-2:])[index].float()
        mix_out = out_scales[:, rows].float()
        if router is None:
            gates = x.new_ones(x.shape[0], 1)
        else:
            part_router = router.reshape(-1, *router.shape[-2:])[index].float()
            gates = torch.softmax(x @ part_router.T, dim=-1)
        dz = _gradients.times_weight(dy[:, rows] * (gates @ mix_out), signs, signs._expand)
        dx += dz * (gates @ mix_in)
        if router is None:
            continue
        u = signs._sign_product(prepare_activations(x * (gates @ mix_in), PRECISIONS[code]))
        dgates = (dy[:, rows] * u) @ mix_out.T + (dz * x) @ mix_in.T
        dx += (gates * (dgates - (gates * dgates).sum(dim=-1, keepdim=True))) @ part_router
    return dx
