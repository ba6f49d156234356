"""What the Triton operators refuse: kernels follow addresses, so no tensor may be smaller than they think."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.backends.arguments import (
    Arguments,
    ChannelArguments,
    PlanesArguments,
    ScalarArguments,
    SignsArguments,
    VectorArguments,
)
from lowbit.backends.cuda import digit_widths
from lowbit.backends.triton import DTYPES
from lowbit.backends.triton_codebook_layout import LINE_WORDS, head_lines, padded_positions, superblocks_of
from lowbit.backends.triton_layout import BLOCK_BYTES, row_blocks, spare_blocks
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import PRECISIONS
from lowbit.ops._arguments import FLOAT_DTYPES, check_groups, check_tensor
from lowbit.ops.codebook import check_channel, check_outliers
from lowbit.ops.signs import check_mix


def signs(a: SignsArguments) -> None:
    """Raise a typed error unless the arguments of triton_signs_linear fit each other."""
    _check(a, a.out_features)
    if a.segments and (min(a.segments) < 1 or sum(a.segments) != a.out_features):
        raise ShapeError(
            "segments of 1 or more do not add up to out_features",
            found=list(a.segments),
            allowed=a.out_features,
        )
    _check_blocks(a.weight, (1,), a.in_features, a.out_features)
    check_groups("scales", a.scales, a.out_features, a.in_features, a.group_size)
    check_mix(a.router, a.in_scales, a.out_scales, len(a.segments), a.in_features, a.out_features)


def planes(a: PlanesArguments) -> None:
    """The same of triton_planes_linear; active_bits are the kernels' affair."""
    _check(a, a.out_features)
    bits = a.weight.shape[0] if a.weight.dim() == 4 else 0
    whole = 1 <= bits <= 8 and a.weight.shape[1] in (bits, len(digit_widths(bits, 0)))
    widths = tuple(digit_widths(bits, a.weight.shape[1])) if whole else ()
    _check_blocks(a.weight, widths, a.in_features, a.out_features)
    check_groups("scales", a.scales, a.out_features, a.in_features, a.group_size)
    check_groups("offsets", a.offsets, a.out_features, a.in_features, a.group_size, (torch.int16,))
    if not 0 <= a.activation_bits <= 8:
        raise ValueRangeError("unsupported activation_bits", found=a.activation_bits, allowed="0..8")


def codebook_channel(a: ChannelArguments) -> None:
    """The same of triton_codebook_channel_linear."""
    _check(a, a.out_features)
    own = a.labels
    if a.axis == 1 and a.weight.dim() == 2:
        check_tensor("labels", a.labels, (2 * a.in_features + a.weight.shape[1] + 1,), (torch.int32,))
        own = a.labels[: a.in_features]
    rows = check_channel(a.weight, own, a.axis, a.low_rank_out, a.low_rank_in, a.in_features)
    if rows != a.out_features:
        raise ShapeError("out_features is not the number of rows", found=a.out_features, allowed=rows)


def codebook_scalar(a: ScalarArguments) -> None:
    """The same of triton_codebook_scalar_linear."""
    rows, entries = a.tables.shape if a.tables.dim() == 2 else (0, 0)
    _check(a, rows)
    bits = max(1, min(entries.bit_length() - 1, 8))
    check_tensor("tables", a.tables, (rows, 2**bits))
    words = LINE_WORDS * (head_lines(bits) + bits * superblocks_of(a.in_features))
    check_tensor("weight", a.weight, (rows, words), (torch.int32,))
    check_outliers(a.outlier_offsets, a.outlier_columns, a.outlier_values, rows)


def codebook_vector(a: VectorArguments) -> None:
    """The same of triton_codebook_vector_linear."""
    rows = a.out_scales.shape[0] if a.out_scales.dim() == 1 else 0
    _check(a, rows)
    books, size = (a.codebooks.shape[0], a.codebooks.shape[2]) if a.codebooks.dim() == 3 else (0, 1)
    if books < 1 or not 1 <= size <= 64:
        raise ShapeError(
            "wrong shape of 'codebooks'", found=list(a.codebooks.shape), allowed="[books, 256, 1..64]"
        )
    check_tensor("codebooks", a.codebooks, (books, 256, size))
    check_tensor("out_scales", a.out_scales, (rows,))
    check_tensor("weight", a.weight, (books, rows, padded_positions(a.in_features, size)), (torch.uint8,))


def _check(a: Arguments, out_features: int) -> None:
    """What every operator takes."""
    if a.x.dtype not in DTYPES:
        raise DtypeError("wrong dtype of the input", found=a.x.dtype, allowed=DTYPES)
    if a.x.dim() == 0 or a.x.shape[-1] != a.in_features or a.in_features < 1:
        raise ShapeError("wrong shape of the input", found=list(a.x.shape), allowed=f"[..., {a.in_features}]")
    if not 0 <= a.precision < len(PRECISIONS):
        raise ValueRangeError("unknown precision", found=a.precision, allowed=f"0..{len(PRECISIONS) - 1}")
    check_tensor("bias", a.bias, (out_features,), FLOAT_DTYPES)
    for tensor in a[1:]:
        if isinstance(tensor, Tensor) and (tensor.device != a.x.device or not tensor.is_contiguous()):
            raise ShapeError(
                "a tensor of the layer lies elsewhere",
                found=f"strides {tensor.stride()} of {list(tensor.shape)} on {tensor.device}",
                allowed=f"contiguous ones on {a.x.device}",
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
