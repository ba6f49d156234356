"""Tiles that were measured: how they are found, kept, and obeyed. Timers here are made up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from lowbit import tuning
from lowbit.backends import triton_tune
from lowbit.formats import PRECISIONS
from lowbit.modules import make_linear
from lowbit.schemes import BipolarInt, ChannelCodebook, ScalarCodebook, Scheme, VectorCodebook
from lowbit.triton_kernels import gpu as described
from lowbit.triton_kernels.bits.config import Config, Product, config
from lowbit.triton_kernels.codebook.plan import plan
from lowbit.triton_kernels.gpu import Gpu, assume, gpu_of
from lowbit.triton_kernels.launch import dry_run
from lowbit.tuning import Tiles, candidates
from triton.errors import TritonError

from tests.ops import cases, targets

GPU = "Some GPU"
BITS, CODEBOOK = "integers 64 x 4096, 1 bits, 2 columns", "dense halves, 64 rows, 64 steps"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


# ---- the file ----


def test_kept(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert tuning.load(GPU) == {}
    file = tuning.store(GPU, {BITS: Tiles(4, 64, 4, 2), CODEBOOK: Tiles(1)})
    assert tmp_path in file.parents
    tuning.store(GPU, {CODEBOOK: Tiles(8)})
    assert tuning.load(GPU) == {BITS: Tiles(4, 64, 4, 2), CODEBOOK: Tiles(8)}
    assert tuning.load("Another GPU") == {}
    assert {path.name for path in file.parent.iterdir()} == {file.name, f"{file.stem}.lock"}
    tuning.store(GPU, {CODEBOOK: None, "dense halves, 1 rows, 1 steps": None})
    assert tuning.load(GPU) == {BITS: Tiles(4, 64, 4, 2)}
    assert not recwarn.list


def test_two_that_store_at_once_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded, stored = tuning.load, Event(), Event()

    def other() -> None:
        loaded.wait()
        tuning.store(GPU, {BITS: Tiles(1, 64, 4, 2)})
        stored.set()

    def slowly(gpu: str) -> object:
        found = load(gpu)
        loaded.set()
        stored.wait(0.3)  # the other comes in between, if it can
        return found

    monkeypatch.setattr(tuning, "load", slowly)
    thread = Thread(target=other)
    thread.start()
    tuning.store(GPU, {CODEBOOK: Tiles(8)})
    thread.join()
    assert load(GPU) == {BITS: Tiles(1, 64, 4, 2), CODEBOOK: Tiles(8)}


def test_where_nothing_can_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        LOCK_EX = 2

        def flock(self, file: object, operation: int) -> None:
            raise OSError("no locks on this file system")

    for module in (Refuses(), None):
        monkeypatch.setattr(tuning, "fcntl", module)
        tuning.store(GPU, {CODEBOOK: Tiles(8)})
    assert tuning.load(GPU) == {CODEBOOK: Tiles(8)}


def test_other_versions_have_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lowbit", "torch", "triton"):
        tuning.store(GPU, {CODEBOOK: Tiles(8)})
        with monkeypatch.context() as other:
            other.setattr(f"{module}.__version__", "99.0")
            assert tuning.load(GPU) == {}


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert tuning.path(GPU).parent == Path("/home/someone/.cache/lowbit/tiles")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-3],
        lambda text: "[]",
        lambda text: "\udcff",
        lambda text: "[" * 100_000,
        lambda text: text.replace(GPU, "Another GPU"),
        lambda text: re.sub(r'"torch": "[^"]*"', '"torch": "1.0"', text),
        lambda text: text.replace("dense halves", "integers 7"),
        lambda text: json.dumps({**json.loads(text), "tiles": {CODEBOOK: [3, 0, 0, 0]}}),
        lambda text: json.dumps({**json.loads(text), "tiles": {CODEBOOK: [8.0, 0, 0, 0]}}),
        lambda text: json.dumps({**json.loads(text), "tiles": {CODEBOOK: [True, 0, 0, 0]}}),
        lambda text: json.dumps({**json.loads(text), "tiles": {CODEBOOK: "wide"}}),
        lambda text: json.dumps({**json.loads(text), "tiles": {CODEBOOK: [8, 0, 0, 0, 0]}}),
        lambda text: json.dumps({**json.loads(text), "tiles": None}),
    ],
)
def test_what_is_not_ours_is_ignored(spoil: Callable[[str], str]) -> None:
    file = tuning.store(GPU, {CODEBOOK: Tiles(8)})
    file.write_text(spoil(file.read_text()), errors="surrogateescape")
    with pytest.warns(UserWarning, match=r"^lowbit: "):
        assert tuning.load(GPU) == {}
    with pytest.warns(UserWarning, match=r"^lowbit: "):
        tuning.store(GPU, {BITS: Tiles(1, 64, 4, 2)})
    assert tuning.load(GPU) == {BITS: Tiles(1, 64, 4, 2)}


def test_what_cannot_be_read_is_ignored() -> None:
    tuning.path(GPU).mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert tuning.load(GPU) == {}


def test_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    file = tuning.store(GPU, {CODEBOOK: Tiles(8)})

    def fail(source: str, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        tuning.store(GPU, {CODEBOOK: Tiles(1)})
    assert tuning.load(GPU) == {CODEBOOK: Tiles(8)}
    assert {path.suffix for path in file.parent.iterdir()} == {".json", ".lock"}


# ---- who obeys it ----


def test_plans_obey() -> None:
    def bits(tokens: int, tuned: dict[str, Tiles]) -> Config:
        return config(Product.parse(BITS), tokens, Gpu(1, tuned))

    def codebook(tokens: int, tuned: dict[str, Tiles]) -> object:
        tiles = {"narrow": (64, 16, 4), "wide": (64, 64, 8)}
        return plan("dense halves", 64, 64, tokens, Gpu(1, tuned), 64, **tiles)

    tuned = {BITS: Tiles(4, 64, 8, 3), CODEBOOK: Tiles(8)}
    for tokens in (1, 16):
        own = bits(tokens, tuned)
        assert (own.splits, own.block_rows, own.warps, own.stages) == (4, 64, 8, 3)
        assert codebook(tokens, tuned).splits == 8
    assert bits(1, {}).splits == codebook(1, {}).splits == 2
    assert (bits(17, tuned), codebook(17, tuned)) == (bits(17, {}), codebook(17, {}))


def test_what_is_computed_otherwise_is_another_product() -> None:
    def product(scheme: Scheme, precision: str = "high", dtype: torch.dtype = torch.float32) -> str:
        packed = scheme.quantize(torch.randn(16, 256))
        module = make_linear(packed, dtype=dtype, scheme=scheme, precision=precision, backend="triton")
        (key,) = triton_tune.products(lambda: module(torch.ones(1, 256, dtype=dtype)), CPU)
        return key

    quantised = BipolarInt(weight_bits=4, activation_bits=4)
    found = [
        *(product(BipolarInt(weight_bits=bits)) for bits in (4, 5, 6)),
        *(product(BipolarInt(weight_bits=4, group_size=size)) for size in (32, 64, -1)),
        *(product(BipolarInt(weight_bits=4, group_size=size, asymmetric=True)) for size in (32, -1)),
        *(product(BipolarInt(weight_bits=4), precision) for precision in ("fast", "exact")),
        product(quantised),
        *(product(ScalarCodebook(), precision) for precision in PRECISIONS),
        # float32 activations are two columns of float16.
        *(product(ChannelCodebook(4, rank=0), dtype=dtype) for dtype in (torch.float16, torch.float32)),
        *(product(VectorCodebook(), dtype=dtype) for dtype in (torch.float16, torch.float32)),
    ]
    assert len(set(found)) == len(found)
    assert product(quantised, "fast") == product(quantised)


def test_the_gpu_is_described_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        multi_processor_count = 108

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    device = torch.device("cuda", 0)
    described.forget()
    assert gpu_of(device) == Gpu(108, {}, (9, 0))
    tuning.store(GPU, {CODEBOOK: Tiles(8)})
    described.forget()
    assert gpu_of(device) == Gpu(108, {CODEBOOK: Tiles(8)}, (9, 0))
    described.forget()


@pytest.mark.parametrize("kind", ["mos", "planes", "channel1", "scalar", "vector"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_candidate_is_right(kind: str, precision: str) -> None:
    """And does not change a row's bits with the number of tokens."""
    targets.load(targets.TRITON)
    layer = cases.make(kind, 33, 1100, 5, target=targets.TRITON)
    x = cases.activations(2, 1100, torch.float32, 5)
    (product, *_) = triton_tune.products(lambda: layer.native(x[:1], precision), CPU)
    done = set()
    for tiles in candidates(product):
        with assume(Gpu(2, {product: tiles})):
            with dry_run() as launches:
                layer.native(x, precision)
            # The interpreter knows neither warps nor stages.
            launched = tuple((one.kernel, one.grid, one.options.get("BLOCK_ROWS")) for one in launches)
            if launched not in done:
                done.add(launched)
                y = layer.check(x, precision)
                assert torch.equal(layer.native(x[:1], precision), y[:1])
    assert len(done) > 1


# ---- how it is found ----


def _product() -> tuple[Callable[[], object], list[str]]:
    targets.load(targets.TRITON)
    layer = cases.make("channel0", 70, 300, target=targets.TRITON)
    x = cases.activations(1, 300, torch.float32)
    return lambda: layer.native(x, "high"), triton_tune.products(lambda: layer.native(x, "high"), CPU)


@pytest.mark.parametrize("error", [TritonError, RuntimeError, torch.OutOfMemoryError])
def test_the_fastest_is_taken(error: type[Exception]) -> None:
    """Of each product by itself, where it gains; what cannot be had is passed over."""
    run, products = _product()
    assert len(products) == len(set(products)) == 2  # shared channels and the low rank

    def time(run: Callable[[], object]) -> float:
        first, second = (gpu_of(CPU).tuned.get(product) for product in products)
        if second == Tiles(8):
            raise error("out of resources")
        return {None: 10.0, Tiles(4): 7.0}.get(first, 8.0) + {None: 3.0, Tiles(2): 2.9}.get(second, 5.0)

    found = triton_tune.tune(run, CPU, {}, time)
    assert [(one.product, one.tiles) for one in found] == [(products[0], Tiles(4)), (products[1], None)]
    assert (found[0].before, found[0].after) == (13.0, 10.0)
    assert found[1].before == found[1].after == 10.0
    assert [one.impossible for one in found] == [{}, {f"{error.__name__}: out of resources": 1}]
    assert triton_tune.tune(run, CPU, dict.fromkeys(products), time) == []
