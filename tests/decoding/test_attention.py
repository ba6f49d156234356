"""Attention of one token against the formula in double precision."""

from __future__ import annotations

import pytest
import torch
from lowbit.decoding.attention import decode_attention
from lowbit.errors import UnsupportedLayerError
from torch import Tensor, nn

BATCH, GROUPS, SHARED, WIDTH, LENGTH = 2, 3, 4, 8, 37


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, GROUPS * SHARED, 1, WIDTH, generator=generator).to(dtype)
    # As in the cache: room behind the positions that are read.
    key, value = (
        torch.randn(BATCH, GROUPS, LENGTH + 5, WIDTH, generator=generator).to(dtype)[:, :, :LENGTH]
        for _ in range(2)
    )
    seen = torch.rand(BATCH, 1, 1, LENGTH, generator=generator) < 0.7
    seen[..., -1] = True
    return query, key, value, seen


def reference(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, cap: float | None
) -> Tensor:
    """Head h attends to group h // SHARED."""
    wide_key, wide_value = (states.double().repeat_interleave(SHARED, dim=1) for states in (key, value))
    scores = query.double() @ wide_key.mT * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    return (weights @ wide_value).transpose(1, 2)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formula(cap: float | None, scaling: float | None, dtype: torch.dtype) -> None:
    query, key, value, seen = inputs(dtype)
    result, weights = decode_attention(nn.Module(), query, key, value, seen, scaling=scaling, softcap=cap)
    expected = reference(query, key, value, seen, scaling or WIDTH**-0.5, cap)
    assert weights is None
    assert result.dtype == dtype
    assert result.shape == (BATCH, 1, GROUPS * SHARED, WIDTH)
    # Weights and result are rounded to the dtype: an ulp of either, of values below 4.
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_no_mask_is_all_seen() -> None:
    query, key, value, seen = inputs(torch.float32)
    result, _ = decode_attention(nn.Module(), query, key, value, None)
    expected = reference(query, key, value, torch.ones_like(seen), WIDTH**-0.5, None)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("others", [{"dropout": 0.1}, {"sinks": torch.ones(1)}])
def test_unknown_kinds_of_attention(others: dict[str, object]) -> None:
    query, key, value, seen = inputs(torch.float32)
    with pytest.raises(UnsupportedLayerError, match="does not know this kind of attention"):
        decode_attention(nn.Module(), query, key, value, seen, **others)
