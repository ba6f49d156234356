"""Tiles that come with the package, and what goes before them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lowbit.triton_kernels import gpu as described
from lowbit.triton_kernels import shipped
from lowbit.triton_kernels.bits.config import Product, config
from lowbit.triton_kernels.gpu import COMPUTED, MEASURED, SHIPPED, Gpu, gpu_of, note_origins
from lowbit.tuning import Tiles, candidates

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
H100 = 132
KEY = "integers 1024 x 4096, 1 bits, 2 columns"


def test_every_table_is_named_for_its_architecture() -> None:
    assert sorted(shipped.FOLDER.iterdir()) == sorted(map(shipped.path, CAPABILITIES))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_tables_hold_candidates_of_products(capability: tuple[int, int]) -> None:
    tables = shipped.tables(capability)
    assert tables
    for multiprocessors, table in tables.items():
        assert list(table) == sorted(table)
        for key, tiles in table.items():
            product = Product.parse(key)
            assert str(product) == key
            assert tiles in candidates(key)
            assert all(type(size) is int for size in tiles)
            # They change something, and nothing for more than 16 tokens.
            own, other = (Gpu(multiprocessors, shipped=found, capability=capability) for found in (table, {}))
            assert config(product, 17, own) == config(product, 17, other)
            assert config(product, 1, own) != config(product, 1, other)


def test_other_gpus_have_none() -> None:
    assert shipped.tables((7, 5)) == {}
    assert shipped.tables((8, 7)) == {}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_splits_do_not_depend_on_few_tokens(capability: tuple[int, int]) -> None:
    for multiprocessors, table in shipped.tables(capability).items():
        gpu = Gpu(multiprocessors, shipped=table)
        for key in table:
            plans = [config(Product.parse(key), tokens, gpu) for tokens in (1, 4, 8, 16)]
            assert len({(plan.split_spans, plan.splits) for plan in plans}) == 1


def test_keys() -> None:
    for key in (
        KEY,
        "scaled 4096+1024+1024 x 14336, 2+1 bits, 1 columns, groups of 128, offsets, fast",
        "exact 1 x 1, 4+4 bits, 1 columns",
    ):
        assert str(Product.parse(key)) == key
    with pytest.raises(ValueError, match="no product"):
        Product.parse("dense halves, 64 rows, 64 steps")


def test_measured_before_shipped_before_computed() -> None:
    product = Product.parse(KEY)
    measured, estimated = Tiles(4, 64, 4, 2), Tiles(0, 32, 2, 3)

    def rows(**tables: dict[str, Tiles]) -> tuple[int, list[str]]:
        with note_origins() as origins:
            plan = config(product, 1, Gpu(H100, **tables))
        return plan.block_rows, list(origins.items())

    both = rows(tuned={KEY: measured}, shipped={KEY: estimated})
    assert both == (64, [(KEY, MEASURED)])
    assert rows(shipped={KEY: estimated}) == (32, [(KEY, SHIPPED)])
    assert rows(shipped={"another": estimated}) == (128, [(KEY, COMPUTED)])


def test_never_split() -> None:
    assert config(Product.parse(KEY), 1, Gpu(H100, {KEY: Tiles(0)})).splits == 1
    assert config(Product.parse(KEY), 1, Gpu(H100)).splits == 4


def test_a_gpu_has_the_table_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of multiprocessors has none, nor has a GPU of AMD."""

    class Properties:
        multi_processor_count = H100

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    def found() -> object:
        described.forget()
        return gpu_of(torch.device("cuda", 0)).shipped

    assert found() is shipped.tables((9, 0))[H100]
    Properties.multi_processor_count = 7
    assert found() == {}
    monkeypatch.setattr(torch.version, "hip", "6.0")  # taken for a GPU of 8.0, and as many as an A100 has
    Properties.multi_processor_count = 108
    assert shipped.tables((8, 0))[108]
    assert found() == {}
    described.forget()


def test_tables_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = shipped.tables((9, 0))
    monkeypatch.setattr(Path, "read_text", None)
    assert shipped.tables((9, 0)) is table
