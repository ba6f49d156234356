"""How products are divided: pure functions."""

from __future__ import annotations

import pytest
from lowbit.backends.triton_layout import spare_blocks
from lowbit.triton_kernels.bits.config import SPAN_INPUTS, config, prologue_blocks, row_tiles
from lowbit.triton_kernels.bits.linear import turn_inputs
from lowbit.triton_kernels.gpu import Gpu

FORMS = ("integers", "scaled", "exact")
SHAPES = [((1,), 1), ((640,), 2048), ((2048, 256, 256), 640), ((4096,), 14336), ((262144,), 640)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("segments", "k"), SHAPES)
@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
def test_splits_cover_the_row_and_do_not_depend_on_few_tokens(form, segments, k, multiprocessors):
    plans = [config(segments, k, m, 2, Gpu(multiprocessors), form) for m in range(1, 17)]
    assert len({(plan.split_spans, plan.splits) for plan in plans}) == 1
    spans = -(-k // SPAN_INPUTS)
    for plan in [*plans, config(segments, k, 300, 1, Gpu(multiprocessors), form)]:
        assert (plan.splits - 1) * plan.split_spans < spans <= plan.splits * plan.split_spans


def test_small_layers_fill_the_gpu():
    for m in (1, 16):
        plan = config((640,), 16384, m, 2, Gpu(132), "integers")
        assert row_tiles((640,), plan.block_rows) * plan.splits > 0.5 * 132


def test_large_layers_are_not_split():
    assert config((262144,), 16384, 1, 2, Gpu(132), "scaled").splits == 1


@pytest.mark.parametrize("form", ["integers", "scaled"])
def test_short_rows_of_one_bit_are_not_split(form):
    for k, splits in ((2048, 1), (2049, 3)):
        assert config((640,), k, 1, 2, Gpu(132), form).splits == splits
    assert config((640,), 2048, 1, 2, Gpu(132), form, (4,)).splits == 2
    assert config((640,), 2048, 1, 2, Gpu(132), "exact").splits == 2


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("unit", [32, 64, 128])
def test_turns_stay_in_the_spare_blocks(width, unit):
    """The last turn of a row starts in a block of it."""
    for halved, largest in ((False, SPAN_INPUTS), (True, SPAN_INPUTS if width == 1 else SPAN_INPUTS // 2)):
        inputs = turn_inputs(width, unit, halved)
        assert inputs <= largest
        assert inputs * width / SPAN_INPUTS - 1 <= spare_blocks([width])


def test_segments_start_tiles():
    assert row_tiles((1, 128, 129), 128) == 4


@pytest.mark.parametrize("k", [1, 1024, 1025, 50000])
@pytest.mark.parametrize("experts", [0, 1, 4, 9, 64])
def test_prologue_blocks_are_powers_of_two(k, experts):
    for size in prologue_blocks(k, experts):
        assert size & (size - 1) == 0
        assert 128 <= size <= 4096
