"""The most likely token is torch's argmax, the first of equal ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.decoding.sampling import most_likely


@given(
    batch=st.integers(1, 4),
    vocabulary=st.sampled_from([1, 2, 97, 512, 1000, 1024, 3 * 512 + 256]),
    values=st.integers(1, 1000),
    seed=st.integers(0, 1000),
)
def test_argmax(batch: int, vocabulary: int, values: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-values, values, (batch, vocabulary), generator=generator).float()
    best = logits.amax(dim=-1, keepdim=True)
    first = [row.tolist().index(top) for row, (top,) in zip(logits, best.tolist(), strict=True)]
    assert most_likely(logits).tolist() == [[place] for place in first]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_a_token_of_the_vocabulary(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 1024, dtype=dtype)
    logits[0, 700] = float("nan")
    assert most_likely(logits).tolist() == [[700]]
