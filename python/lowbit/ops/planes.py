"""Family planes: y = x W^T + bias with weights of 1 to 8 bits as bit planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit import backends
from lowbit.errors import ShapeError, ValueRangeError
from lowbit.formats import Planes
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


def planes_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    *,
    offsets: Tensor | None = None,
    bias: Tensor | None = None,
    out_features: int | None = None,
    group_size: int = -1,
    active_bits: int | None = None,
    activation_bits: int = 0,
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = x W^T + bias, w = scales * (2^(B-b) v_b + offsets), from the first b = active_bits of B planes.

    v_b is the odd value of the first b bits (bipolar codes, arXiv 2409.17870). With activation_bits the
    activations are quantised to such codes too and the product is exact in integers.

    Args:
        x: float [..., K].
        weight: planes, uint8 [B, N, ceil(K/8)], most significant first, or the kernels' tiles:
            [ceil(N/64), B, ceil(K/32), 64, 4] on the CPU (lowbit.backends.cpu.tile_bits),
            [B, digits, words, 16] for CUDA C++ (lowbit.backends.cuda.repack_bits),
            [B, digits, blocks, 128] for Triton (lowbit.backends.triton_layout.lay_out_bits).
        scales: [N, ceil(K/group_size)], or tiled as the weight is.
        offsets: int16 of the same shape, in code units; None is zeros.
        bias: [N].
        out_features: N; needed with tiles when there is no bias.
        group_size: inputs per scale, -1 (whole row) or a positive multiple of 32.
        active_bits: planes to read, 1..B; None is all.
        activation_bits: 1..8, or 0 to leave the activations to `precision`.
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
    tiled = _layouts.is_tiled(weight)
    if not tiled and weight.dim() != 3:
        raise ShapeError(
            "wrong shape of the weight",
            found=list(weight.shape),
            allowed="[B, N, ceil(K/8)] or the kernels' tiles",
        )
    if not tiled:
        check_width(weight.shape[2], in_features)
        rows = weight.shape[1]
        if out_features is not None and out_features != rows:
            raise ShapeError("out_features is not the number of rows", found=out_features, allowed=rows)
    elif out_features is not None:
        rows = out_features
    elif bias is not None:
        rows = bias.shape[0]
    else:
        raise ShapeError("tiles are padded and do not tell the number of rows", allowed="out_features=N")
    bits = weight.shape[1 if weight.dim() == 5 else 0]
    planes = bits if active_bits is None else active_bits
    if not 1 <= planes <= bits:
        raise ValueRangeError("unsupported active_bits", found=planes, allowed=f"1..{bits}")
    if not 0 <= activation_bits <= 8:
        raise ValueRangeError("unsupported activation_bits", found=activation_bits, allowed="0..8")
    if not tiled:
        check_tensor("weight", weight, weight.shape, (torch.uint8,))
        check_groups("scales", scales, rows, in_features, group_size)
        check_groups("offsets", offsets, rows, in_features, group_size, (torch.int16,))
    check_tensor("bias", bias, (rows,), FLOAT_DTYPES)
    name = choose("planes", x.device.type, x.dtype, backend)
    if tiled and name == "torch":
        weight, scales, offsets = _untile(weight, scales, offsets, in_features, rows, group_size)
    elif not tiled and name != "torch":
        layout = _layouts.of(name)
        weight = layout.tile(weight, in_features, any_bits=planes < bits)
        scales = layout.tile_groups(scales, in_features, group_size)
        if offsets is not None:
            offsets = layout.tile_groups(offsets, in_features, group_size)
    operator = backends.get(name).operator("planes")
    return operator(
        x, weight, scales, offsets, bias, in_features, rows, group_size, planes, activation_bits, code
    )


def _untile(
    tiles: Tensor,
    scales: Tensor,
    offsets: Tensor | None,
    in_features: int,
    out_features: int,
    group_size: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    layout = _layouts.of_weight(tiles)
    assert layout is not None

    def groups(values: Tensor) -> Tensor:
        return layout.untile_groups(values, in_features, out_features, group_size)

    bits = layout.untile(tiles, in_features, out_features)
    return bits, groups(scales), None if offsets is None else groups(offsets)


def register(prefix: str = "lowbit::", out: bool = True) -> None:
    """Fakes and gradients of the operator <prefix><kind>_linear; `out`: with `_out` twins."""
    _registration.register(f"{prefix}planes_linear", _fake, 4, _gradient, out)


def _fake(x: Tensor, *args: Any) -> Tensor:
    out_features = args[5]
    return x.new_empty(*x.shape[:-1], out_features)


def _gradient(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W."""
    _, tiles, scales, offsets, _, in_features, out_features, group_size, active_bits, _, _ = inputs
    weight, scales, offsets = _untile(tiles, scales, offsets, in_features, out_features, group_size)
    packed = Planes(weight, scales, in_features, group_size, offsets)
    return _gradients.times_weight(dy, packed, lambda ids: packed._expand_planes(ids, active_bits))
