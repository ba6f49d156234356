"""Family codebook: y = x W^T + bias with weights from tables, in three variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit import backends
from lowbit.backends import cuda, triton_codebook_layout
from lowbit.errors import FormatError, ShapeError, ValueRangeError
from lowbit.formats import CodebookChannel, CodebookScalar, CodebookVector
from lowbit.ops import _gradients, _registration
from lowbit.ops._arguments import FLOAT_DTYPES, check_input, check_tensor, check_width, choose, precision_code


def codebook_linear(
    x: Tensor,
    weight: Tensor,
    *,
    labels: Tensor | None = None,
    axis: int = 0,
    low_rank_out: Tensor | None = None,
    low_rank_in: Tensor | None = None,
    tables: Tensor | None = None,
    outlier_offsets: Tensor | None = None,
    outlier_columns: Tensor | None = None,
    outlier_values: Tensor | None = None,
    codebooks: Tensor | None = None,
    out_scales: Tensor | None = None,
    bias: Tensor | None = None,
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = x W^T + bias. The variant is told by what is given: labels, tables, or codebooks with out_scales.

    Shapes and formulas are those of the classes in lowbit.formats.codebook:
        channel (SWSC, arXiv 2501.08631): `labels`, `axis`, and optionally `low_rank_out`, `low_rank_in`;
            weight [C, K] for output channels (axis 0), [N, C] for input channels (axis 1).
        scalar (SqueezeLLM, arXiv 2306.07629): `tables`, and optionally the three outlier tensors;
            weight uint8 [B, N, ceil(K/8)].
        vector (AQLM, arXiv 2401.06118): `codebooks` and `out_scales`; weight uint8 [M, N, ceil(K/v)].

    Args:
        x: float [..., K].
        bias: [N].
        precision: "fast", "high", "exact"; None is "fast" on the CPU and "high" elsewhere.
        backend: force one; None takes the first that can run.

    Returns:
        [..., N] in x's dtype.

    Raises:
        FormatError: no variant, or more than one, is described; an argument does not fit (ShapeError,
            DtypeError, ValueRangeError).
        BackendError: the forced backend cannot run it.
    """
    in_features = x.shape[-1] if x.dim() else 0
    check_input(x, in_features)
    code = precision_code(precision, x)
    given = [
        name
        for name, t in (("labels", labels), ("tables", tables), ("codebooks", codebooks))
        if t is not None
    ]
    if len(given) != 1:
        raise FormatError(
            "the tensors do not say which codebook it is",
            found=", ".join(given) or "none",
            allowed="one of labels, tables, codebooks",
        )
    dims = 2 if labels is not None else 3
    if weight.dim() != dims:
        raise ShapeError("wrong shape of 'weight'", found=list(weight.shape), allowed=f"{dims} dimensions")
    if labels is not None:
        rows = check_channel(weight, labels, axis, low_rank_out, low_rank_in, in_features)
        check_tensor("bias", bias, (rows,), FLOAT_DTYPES)
        operator, name = _operator("channel", x, backend)
        if name in ("cuda", "triton") and axis == 1:
            labels = cuda.order_labels(labels, weight.shape[1])
        return operator(x, weight, labels, low_rank_out, low_rank_in, bias, in_features, rows, axis, code)
    rows = weight.shape[1]
    check_tensor("bias", bias, (rows,), FLOAT_DTYPES)
    check_tensor("weight", weight, weight.shape, (torch.uint8,))
    if tables is not None:
        check_width(weight.shape[2], in_features)
        check_tensor("tables", tables, (rows, 2 ** weight.shape[0]))
        outliers = (outlier_offsets, outlier_columns, outlier_values)
        check_outliers(*outliers, rows)
        operator, name = _operator("scalar", x, backend)
        if name == "cuda":
            weight = cuda.repack_scalar(weight, tables, in_features)
        elif name == "triton":
            weight = triton_codebook_layout.lay_out_scalar(weight, tables, in_features)
        return operator(x, weight, tables, *outliers, bias, in_features, code)
    if out_scales is None:
        raise ShapeError("codebooks need out_scales", allowed="[N]")
    assert codebooks is not None
    size = codebooks.shape[2] if codebooks.dim() == 3 else 0
    if size == 0 or weight.shape[2] != -(-in_features // size):
        raise ShapeError(
            f"wrong shape of 'codebooks' for {in_features} inputs in {weight.shape[2]} codes a row",
            found=list(codebooks.shape),
            allowed="[M, 256, v] with ceil(K/v) codes a row",
        )
    check_tensor("codebooks", codebooks, (weight.shape[0], 256, size))
    check_tensor("out_scales", out_scales, (rows,))
    operator, name = _operator("vector", x, backend)
    if name == "cuda":
        weight = cuda.repack_vector(weight, codebooks, in_features)
    elif name == "triton":
        weight = triton_codebook_layout.lay_out_vector(weight, in_features, size)
    return operator(x, weight, codebooks, out_scales, bias, in_features, code)


def check_channel(
    weight: Tensor,
    labels: Tensor,
    axis: int,
    low_rank_out: Tensor | None,
    low_rank_in: Tensor | None,
    in_features: int,
) -> int:
    """out_features, if shapes and dtypes fit; labels are one per channel."""
    if axis not in (0, 1):
        raise ValueRangeError(
            "unsupported axis", found=axis, allowed="0 (output channels), 1 (input channels)"
        )
    rows = labels.shape[0] if axis == 0 and labels.dim() == 1 else weight.shape[0]
    clusters = weight.shape[axis]
    check_tensor("weight", weight, (clusters, in_features) if axis == 0 else (rows, clusters))
    label_dtypes = (torch.uint8, torch.uint16, torch.int32)
    check_tensor("labels", labels, (rows if axis == 0 else in_features,), label_dtypes)
    if (low_rank_out is None) != (low_rank_in is None):
        raise FormatError("half a low-rank correction", allowed="low_rank_out and low_rank_in, or neither")
    if low_rank_in is not None:
        rank = low_rank_in.shape[0] if low_rank_in.dim() else 0
        check_tensor("low_rank_in", low_rank_in, (rank, in_features))
        check_tensor("low_rank_out", low_rank_out, (rows, rank))
    return rows


def check_outliers(
    offsets: Tensor | None, columns: Tensor | None, values: Tensor | None, out_features: int
) -> None:
    """Raise a typed error unless these are the three tensors of a matrix in CSR form, or none."""
    if len({tensor is None for tensor in (offsets, columns, values)}) != 1:
        raise FormatError(
            "outliers are incomplete", allowed="outlier_offsets, outlier_columns and outlier_values, or none"
        )
    check_tensor("outlier_offsets", offsets, (out_features + 1,), (torch.int32,))
    if columns is not None:
        check_tensor("outlier_columns", columns, (columns.numel(),), (torch.int32,))
        check_tensor("outlier_values", values, (columns.numel(),))


def _operator(variant: str, x: Tensor, backend: str | None) -> tuple[Any, str]:
    """The operator, and the name of the backend that it is of."""
    kind = f"codebook_{variant}"
    name = choose(kind, x.device.type, x.dtype, backend)
    return backends.get(name).operator(kind), name


def register(prefix: str = "lowbit::", out: bool = True) -> None:
    """Fakes and gradients of the operators <prefix><kind>_linear; `out`: with `_out` twins."""
    _registration.register(f"{prefix}codebook_channel_linear", _fake_channel, 5, _gradient_channel, out)
    _registration.register(f"{prefix}codebook_scalar_linear", _fake_scalar, 6, _gradient_scalar, out)
    _registration.register(f"{prefix}codebook_vector_linear", _fake_vector, 4, _gradient_vector, out)


def _fake_channel(x: Tensor, *args: Any) -> Tensor:
    out_features = args[6]
    return x.new_empty(*x.shape[:-1], out_features)


def _fake_scalar(x: Tensor, weight: Tensor, tables: Tensor, *args: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], tables.shape[0])


def _fake_vector(x: Tensor, weight: Tensor, codebooks: Tensor, out_scales: Tensor, *args: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_scales.shape[0])


def _gradient_channel(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W."""
    _, weight, labels, low_rank_out, low_rank_in, _, in_features, out_features, axis, _ = inputs
    labels = labels[: in_features if axis == 1 else None]  # the GPU kernels have more behind them
    packed = CodebookChannel(weight, labels, axis, in_features, out_features, low_rank_out, low_rank_in)
    return _gradients.times_weight(dy, packed, packed._expand)


def _gradient_scalar(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W; torch.compile traces this, too."""
    _, weight, tables, *outliers, _, in_features, _ = inputs
    if weight.dtype == torch.int32:
        weight = triton_codebook_layout.restore_scalar(weight, tables.shape[1], in_features)
    elif weight.dim() == 2:
        weight = cuda.restore_scalar(weight, tables, in_features)
    packed = CodebookScalar(weight, tables, in_features, *outliers)
    return _gradients.times_weight(dy, packed, packed._expand_traced)


def _gradient_vector(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W."""
    _, weight, codebooks, out_scales, _, in_features, _ = inputs
    if weight.dim() == 2:
        weight = cuda.restore_vector(weight, codebooks, in_features, out_scales.shape[0])
    else:  # the Triton kernels have padded rows
        weight = triton_codebook_layout.restore_vector(weight, in_features, codebooks.shape[2])
    packed = CodebookVector(weight, codebooks, out_scales, in_features)
    return _gradients.times_weight(dy, packed, packed._expand)
