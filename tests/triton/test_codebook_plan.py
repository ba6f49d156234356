"""Plans of the Triton codebook kernels: every step is done once, in an order that tokens do not change."""

from __future__ import annotations

import pytest
from lowbit.triton_kernels.codebook.plan import GEMV_TOKENS, Plan, plan
from lowbit.triton_kernels.gpu import Gpu

TILES = {"narrow": (128, 16, 4), "wide": (64, 32, 8)}


@pytest.mark.parametrize("out_features", [1, 128, 4096, 150000])
@pytest.mark.parametrize("steps", [1, 7, 16, 1000])
@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("most_steps", [3, 1000])
def test_splits(out_features: int, steps: int, multiprocessors: int, most_steps: int) -> None:
    gpu = Gpu(multiprocessors)
    plans = {plan("x", out_features, steps, m, gpu, most_steps, **TILES) for m in range(1, GEMV_TOKENS + 1)}
    (own,) = plans
    assert own.split_steps <= most_steps
    # All steps, and no split without one.
    assert own.splits * own.split_steps >= steps > (own.splits - 1) * own.split_steps


def test_small_layers_fill_the_device() -> None:
    own = plan("x", 256, 16, 1, Gpu(132), 256, **TILES)
    assert (own.splits, own.split_steps) == (16, 1)
    assert plan("x", 150000, 16, 1, Gpu(132), 256, **TILES).splits == 1


def test_many_tokens_take_wide_tiles() -> None:
    assert plan("x", 100, 4, GEMV_TOKENS + 1, Gpu(1), 4, **TILES) == Plan(64, 32, 8, 4, 1)
