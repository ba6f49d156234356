"""Family codebook: y = x W^T + bias with weights from tables, in three variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit import backends
from lowbit.errors import FormatError, ShapeError
from lowbit.formats import CodebookChannel, CodebookScalar, CodebookVector
from lowbit.ops import _gradients
from lowbit.ops._arguments import check_input, choose, precision_code


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
        FormatError: no variant, or more than one, is described.
        ShapeError, DtypeError, ValueRangeError: an argument does not fit.
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
    if labels is not None:
        operator = _operator("channel", x, backend)
        rows = labels.shape[0] if axis == 0 else weight.shape[0]
        return operator(x, weight, labels, low_rank_out, low_rank_in, bias, in_features, rows, axis, code)
    if tables is not None:
        operator = _operator("scalar", x, backend)
        outliers = (outlier_offsets, outlier_columns, outlier_values)
        return operator(x, weight, tables, *outliers, bias, in_features, code)
    if out_scales is None:
        raise ShapeError("codebooks need out_scales", allowed="[N]")
    operator = _operator("vector", x, backend)
    return operator(x, weight, codebooks, out_scales, bias, in_features, code)


def _operator(variant: str, x: Tensor, backend: str | None) -> Any:
    kind = f"codebook_{variant}"
    return backends.get(choose(kind, x.device.type, x.dtype, backend)).operator(kind)


def register() -> None:
    """Fakes and gradients of the native operators."""
    for name, bias, fake, gradient in (
        ("codebook_channel_linear", 5, _fake_channel, _gradient_channel),
        ("codebook_scalar_linear", 6, _fake_rows, _gradient_scalar),
        ("codebook_vector_linear", 4, _fake_rows, _gradient_vector),
    ):
        torch.library.register_fake(f"lowbit::{name}", fake)
        torch.library.register_fake(f"lowbit::{name}_out", _fake_out)
        _gradients.register(name, bias, gradient)


def _fake_channel(x: Tensor, *args: Any) -> Tensor:
    out_features = args[6]
    return x.new_empty(*x.shape[:-1], out_features)


def _fake_rows(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def _fake_out(*args: Any) -> None:
    """Writes its last argument; nothing to infer."""


def _gradient_channel(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W."""
    _, weight, labels, low_rank_out, low_rank_in, _, in_features, out_features, axis, _ = inputs
    packed = CodebookChannel(weight, labels, axis, in_features, out_features, low_rank_out, low_rank_in)
    return dy @ packed.dequantize()


def _gradient_scalar(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W, table and outliers apart: shapes must not depend on data under torch.compile."""
    _, weight, tables, offsets, columns, values, _, in_features, _ = inputs
    dx = dy @ CodebookScalar(weight, tables, in_features).dequantize()
    if offsets is None:
        return dx
    entries = torch.arange(len(columns), dtype=offsets.dtype, device=x.device)
    rows = torch.searchsorted(offsets[1:], entries, right=True)
    return dx.index_add(1, columns.long(), dy[:, rows] * values.float())


def _gradient_vector(x: Tensor, dy: Tensor, inputs: Sequence[Any]) -> Tensor:
    """dx = dy W."""
    _, weight, codebooks, out_scales, _, in_features, _ = inputs
    return dy @ CodebookVector(weight, codebooks, out_scales, in_features).dequantize()
