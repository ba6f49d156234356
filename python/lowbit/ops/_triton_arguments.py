"""What the Triton operators refuse: kernels follow addresses, so no tensor may be smaller than they think."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowbit.backends.cuda import digit_widths
from lowbit.backends.triton import DTYPES
from lowbit.backends.triton_codebook_layout import LINE_WORDS, head_lines, padded_positions, superblocks_of
from lowbit.backends.triton_layout import BLOCK_BYTES, row_blocks, spare_blocks
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import PRECISIONS
from lowbit.ops._arguments import FLOAT_DTYPES, check_groups, check_tensor
from lowbit.ops.codebook import check_channel, check_outliers
from lowbit.ops.signs import check_mix


def signs(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    router: Tensor | None,
    in_scales: Tensor | None,
    out_scales: Tensor | None,
    bias: Tensor | None,
    segments: Sequence[int],
    in_features: int,
    out_features: int,
    group_size: int,
    precision: int,
) -> None:
    """Raise a typed error unless the arguments of triton_signs_linear fit each other."""
    _check(x, in_features, bias, out_features, precision, weight, scales, router, in_scales, out_scales)
    if segments and (min(segments) < 1 or sum(segments) != out_features):
        raise ShapeError(
            "segments of 1 or more do not add up to out_features", found=list(segments), allowed=out_features
        )
    _check_blocks(weight, (1,), in_features, out_features)
    check_groups("scales", scales, out_features, in_features, group_size)
    check_mix(router, in_scales, out_scales, len(segments), in_features, out_features)


def planes(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    offsets: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    group_size: int,
    active_bits: int,
    activation_bits: int,
    precision: int,
) -> None:
    """The same of triton_planes_linear; active_bits are the kernels' affair."""
    _check(x, in_features, bias, out_features, precision, weight, scales, offsets)
    bits = weight.shape[0] if weight.dim() == 4 else 0
    whole = 1 <= bits <= 8 and weight.shape[1] in (bits, len(digit_widths(bits, 0)))
    widths = tuple(digit_widths(bits, weight.shape[1])) if whole else ()
    _check_blocks(weight, widths, in_features, out_features)
    check_groups("scales", scales, out_features, in_features, group_size)
    check_groups("offsets", offsets, out_features, in_features, group_size, (torch.int16,))
    if not 0 <= activation_bits <= 8:
        raise ValueRangeError("unsupported activation_bits", found=activation_bits, allowed="0..8")


def codebook_channel(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    low_rank_out: Tensor | None,
    low_rank_in: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    axis: int,
    precision: int,
) -> None:
    """The same of triton_codebook_channel_linear."""
    _check(x, in_features, bias, out_features, precision, weight, labels, low_rank_out, low_rank_in)
    own = labels
    if axis == 1 and weight.dim() == 2:
        check_tensor("labels", labels, (2 * in_features + weight.shape[1] + 1,), (torch.int32,))
        own = labels[:in_features]
    rows = check_channel(weight, own, axis, low_rank_out, low_rank_in, in_features)
    if rows != out_features:
        raise ShapeError("out_features is not the number of rows", found=out_features, allowed=rows)


def codebook_scalar(
    x: Tensor,
    weight: Tensor,
    tables: Tensor,
    outlier_offsets: Tensor | None,
    outlier_columns: Tensor | None,
    outlier_values: Tensor | None,
    bias: Tensor | None,
    in_features: int,
    precision: int,
) -> None:
    """The same of triton_codebook_scalar_linear."""
    rows, entries = tables.shape if tables.dim() == 2 else (0, 0)
    outliers = (outlier_offsets, outlier_columns, outlier_values)
    _check(x, in_features, bias, rows, precision, weight, tables, *outliers)
    bits = max(1, min(entries.bit_length() - 1, 8))
    check_tensor("tables", tables, (rows, 2**bits))
    words = LINE_WORDS * (head_lines(bits) + bits * superblocks_of(in_features))
    check_tensor("weight", weight, (rows, words), (torch.int32,))
    check_outliers(*outliers, rows)


def codebook_vector(
    x: Tensor,
    weight: Tensor,
    codebooks: Tensor,
    out_scales: Tensor,
    bias: Tensor | None,
    in_features: int,
    precision: int,
) -> None:
    """The same of triton_codebook_vector_linear."""
    rows = out_scales.shape[0] if out_scales.dim() == 1 else 0
    _check(x, in_features, bias, rows, precision, weight, codebooks, out_scales)
    books, size = (codebooks.shape[0], codebooks.shape[2]) if codebooks.dim() == 3 else (0, 1)
    if books < 1 or not 1 <= size <= 64:
        raise ShapeError(
            "wrong shape of 'codebooks'", found=list(codebooks.shape), allowed="[books, 256, 1..64]"
        )
    check_tensor("codebooks", codebooks, (books, 256, size))
    check_tensor("out_scales", out_scales, (rows,))
    check_tensor("weight", weight, (books, rows, padded_positions(in_features, size)), (torch.uint8,))


def _check(
    x: Tensor,
    in_features: int,
    bias: Tensor | None,
    out_features: int,
    precision: int,
    *tensors: Tensor | None,
) -> None:
    """What every operator takes: `tensors` are all but x and bias."""
    if x.dtype not in DTYPES:
        raise DtypeError("wrong dtype of the input", found=x.dtype, allowed=DTYPES)
    if x.dim() == 0 or x.shape[-1] != in_features or in_features < 1:
        raise ShapeError("wrong shape of the input", found=list(x.shape), allowed=f"[..., {in_features}]")
    if not 0 <= precision < len(PRECISIONS):
        raise ValueRangeError("unknown precision", found=precision, allowed=f"0..{len(PRECISIONS) - 1}")
    check_tensor("bias", bias, (out_features,), FLOAT_DTYPES)
    for tensor in (*tensors, bias):
        if tensor is not None and (tensor.device != x.device or not tensor.is_contiguous()):
            raise ShapeError(
                "a tensor of the layer lies elsewhere",
                found=f"strides {tensor.stride()} of {list(tensor.shape)} on {tensor.device}",
                allowed=f"contiguous ones on {x.device}",
            )


def _check_blocks(weight: Tensor, widths: tuple[int, ...], in_features: int, out_features: int) -> None:
    """lowbit.backends.triton_layout draws them."""
    check_tensor("weight", weight, weight.shape, (torch.uint8,))
    blocks = out_features * row_blocks(in_features, widths) + spare_blocks(widths) if widths else 0
    drawn = widths and weight.dim() == 4 and weight.shape[:2] == (sum(widths), len(widths))
    size = blocks * BLOCK_BYTES
    if not drawn or weight.shape[3] != BLOCK_BYTES or weight.numel() < size or out_features < 1:
        raise ShapeError(
            f"wrong shape of 'weight' for {out_features} rows of {in_features} inputs",
            found=list(weight.shape),
            allowed=f"[bits, digits, n, {BLOCK_BYTES}] of lowbit.backends.triton_layout, {blocks} blocks",
        )
