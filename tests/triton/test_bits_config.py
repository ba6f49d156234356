"""How products are divided: pure functions."""

from __future__ import annotations

import pytest
from lowbit.backends.triton_layout import spare_blocks
from lowbit.triton_kernels.bits.config import SPAN_INPUTS, Product, config, prologue_blocks, row_tiles
from lowbit.triton_kernels.gpu import Gpu
from lowbit.tuning import Tiles

FORMS = ("integers", "scaled", "exact")
H100 = Gpu(132, capability=(9, 0))
SHAPES = [((1,), 1), ((640,), 2048), ((2048, 256, 256), 640), ((4096,), 14336), ((262144,), 640)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("segments", "k"), SHAPES)
@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
def test_splits_cover_the_row_and_do_not_depend_on_few_tokens(form, segments, k, multiprocessors):
    product, gpu = Product(form, segments, k, (1,), 2), Gpu(multiprocessors)
    plans = [config(product, m, gpu) for m in range(1, 17)]
    assert len({(plan.split_spans, plan.splits) for plan in plans}) == 1
    spans = -(-k // SPAN_INPUTS)
    for plan in [*plans, config(product._replace(columns_per_token=1), 300, gpu)]:
        assert (plan.splits - 1) * plan.split_spans < spans <= plan.splits * plan.split_spans


def test_small_layers_fill_the_gpu():
    for m in (1, 16):
        plan = config(Product("integers", (640,), 16384, (1,), 2), m, H100)
        assert row_tiles((640,), plan.block_rows) * plan.splits > 0.5 * 132


def test_large_layers_are_not_split():
    assert config(Product("scaled", (262144,), 16384, (1,), 2), 1, H100).splits == 1


@pytest.mark.parametrize("form", ["integers", "scaled"])
def test_short_rows_of_one_bit_are_not_split(form):
    product = Product(form, (640,), 2048, (1,), 2)
    assert config(product, 1, H100).splits == 1
    assert config(product._replace(in_features=2049), 1, H100).splits == 3
    for longer in (product._replace(widths=(4,)), product._replace(form="exact")):
        assert config(longer, 1, H100).splits == 2


@pytest.mark.parametrize("widths", [(1,), (2,), (4,), (2, 1), (4, 1), (4, 2), (4, 2, 1), (4, 4), (1,) * 8])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128, 384])
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_turns_stay_in_the_spare_blocks(widths, group_size, offsets, fast):
    """The last turn of a row starts in a block of it; the turns of all digits have as many inputs."""
    product = Product("scaled", (640,), 640, widths, 1 if fast else 2, group_size, offsets, fast)
    turns = {product.turn_inputs(width) for width in widths}
    assert len(turns) == 1
    (inputs,) = turns
    assert inputs <= SPAN_INPUTS
    for width in widths:
        assert inputs * width / SPAN_INPUTS - 1 <= spare_blocks([width])


@pytest.mark.parametrize(
    ("product", "tile"),
    [
        (Product("scaled", (640,), 4096, (4,), 2, 128), (128, 4)),
        (Product("scaled", (640,), 4096 - 128, (4,), 2, 128), (64, 2)),
        (Product("scaled", (640,), 4096 - 128, (1,), 2, 128), (128, 4)),
        (Product("scaled", (640,), 4096, (4, 4), 2, 128), (128, 4)),
        (Product("scaled", (640,), 4096, (4, 4), 1, 128, fast=True), (128, 4)),
        (Product("integers", (640,), 4096, (4,), 2), (64, 2)),
        (Product("integers", (640,), 4096, (2,), 2), (128, 4)),
    ],
)
def test_a_turn_fits_in_shared_memory_and_registers(product, tile):
    plans = [config(product, tokens, H100) for tokens in (1, 16)]
    assert [(plan.block_rows, plan.warps) for plan in plans] == [tile] * 2
    if product.fast:
        amd = config(product, 1, Gpu(132, amd=True))
        assert (amd.block_rows, amd.warps) == (64, 2)


def test_sixteen_columns_of_whole_rows_in_fast():
    """Have warps of 16 rows where those of 32 spill, and splits as 8 columns have."""
    product = Product("scaled", (640,), 16384, (1,), 1, fast=True)
    for gpu, warps in ((Gpu(132), 8), (Gpu(132, capability=(9, 0)), 4), (Gpu(132, amd=True), 4)):
        few, many = (config(product, tokens, gpu) for tokens in (8, 9))
        assert (few.block_columns, few.warps) == (8, 4)
        assert many == few._replace(block_columns=16, warps=warps)
    tiles = Gpu(132, {str(product): Tiles(1, 64, 2, 3)})
    assert config(product, 16, tiles)[1:5] == (64, 16, 4, 3)
    by_128 = product._replace(group_size=128)
    # With scales inside the row 32 rows of a warp do not spill; on sm_90 two warps, which wgmma has not.
    for gpu, tile in ((Gpu(132), (128, 16, 4)), (Gpu(132, capability=(9, 0)), (64, 16, 2))):
        assert config(by_128, 16, gpu)[1:4] == tile
        assert config(by_128, 8, gpu)[1:4] == (tile[0], 8, tile[2])
    assert config(by_128._replace(group_size=64), 16, Gpu(132)).block_columns == 8
    assert config(by_128._replace(offsets=True), 16, Gpu(132)).block_columns == 8
    assert config(by_128._replace(widths=(4,)), 16, Gpu(132)).block_columns == 16
    assert config(by_128._replace(widths=(2, 1)), 16, Gpu(132)).block_columns == 8


@pytest.mark.parametrize(
    ("widths", "capability", "warps"),
    [((2, 1), (8, 0), 8), ((2, 1), (9, 0), 4), ((4, 1), (9, 0), 4), ((4,), (8, 6), 4), ((4,), (12, 0), 2)],
)
def test_sixteen_columns_of_whole_rows(widths, capability, warps):
    """Have the rows that 8 have, in warps of 16 where those of 32 spill."""
    product = Product("integers", (640,), 4096, widths, 2)
    few, many = (config(product, tokens, Gpu(132, capability=capability)) for tokens in (4, 8))
    assert many == few._replace(block_columns=16, warps=warps)


@pytest.mark.parametrize(
    ("capability", "tiles"),
    [
        ((8, 0), [(128, 4)] * 3),
        ((10, 0), [(64, 2), (64, 4), (128, 4)]),
        ((12, 0), [(128, 4), (64, 4), (128, 4)]),
    ],
)
def test_tiles_that_spill_are_not_computed(capability, tiles):
    """benchmarks/results/triton_report.json has the code of these."""
    products = [
        Product("scaled", (640,), 4096 - 128, (1,), 2, 128),
        Product("scaled", (640,), 4096 - 128, (2, 1), 2, 128),
        Product("scaled", (640,), 4096, (1,), 1, fast=True),
    ]
    plans = [config(product, 1, Gpu(132, capability=capability)) for product in products]
    assert [(plan.block_rows, plan.warps) for plan in plans] == tiles
    assert plans[-1].stages == (3 if capability[0] == 12 else 2)


def test_segments_start_tiles():
    assert row_tiles((1, 128, 129), 128) == 4


@pytest.mark.parametrize("k", [1, 1024, 1025, 50000])
@pytest.mark.parametrize("experts", [0, 1, 4, 9, 64])
def test_prologue_blocks_are_powers_of_two(k, experts):
    for size in prologue_blocks(k, experts):
        assert size & (size - 1) == 0
        assert 128 <= size <= 4096
