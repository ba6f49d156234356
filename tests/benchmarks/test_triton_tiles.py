"""The shipped tiles against the facts that they were chosen by, and the parts of the choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import product as combinations
from math import isfinite
from typing import Any

import pytest

pytest.importorskip("triton")

from cuda_report.disassembly import Function, Instruction
from cuda_report.gpus import Gpu
from cuda_report.loops import Loop
from lowbit.formats import PRECISIONS
from lowbit.triton_kernels import shipped
from lowbit.triton_kernels.bits.ahead import FEATURES, calls_of, layer_of
from lowbit.triton_kernels.bits.config import Product
from lowbit.triton_kernels.bits.staging import Kind
from lowbit.triton_kernels.bits.variants import Variant, shipped_variants, variant_of
from lowbit.tuning import Tiles
from shapes import MODELS
from triton_report.choice import LAYERS, LEAST_GAIN, Choice, Look, alike, choose, code_of, plan_with, products
from triton_report.estimate import microseconds, work_of
from triton_report.facts import Copies, Facts, of_function, shortest, stall_clocks, waits_of
from triton_report.gpus import GPUS
from triton_report.known import TARGETS, compiled, compiled_for
from triton_report.make_tables import RESULTS

W4 = "scaled 4096 x 4096, 4 bits, 2 columns, groups of 128"
LARGE = W4.replace("4096 x 4096", "65536 x 8192")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "triton_tiles.json").read_text())
    return found


@pytest.fixture(scope="module")
def facts(document: dict[str, Any]) -> dict[tuple[str, str], Facts]:
    return {(target, name): Facts(*row) for target, name, *row in document["facts"]}


def test_tables_are_what_was_chosen(document: dict[str, Any]) -> None:
    tables: dict[tuple[str, int], dict[str, Tiles]] = {}
    for target, multiprocessors, product, tiles, gain, *_ in document["choices"]:
        table = tables.setdefault((target, multiprocessors), {})
        if tiles is not None:
            table[product] = Tiles(*tiles)
        else:
            assert gain == 0
    assert tables == {
        (f"sm_{architecture}", multiprocessors): table
        for architecture in TARGETS
        for multiprocessors, table in shipped.tables(divmod(architecture, 10)).items()
    }
    assert tables.keys() == {(f"sm_{gpu.architecture}", gpu.multiprocessors) for gpu in GPUS}


@pytest.mark.parametrize("architecture", TARGETS)
def test_the_facts_lead_to_the_tables(architecture: int, facts: dict[tuple[str, str], Facts]) -> None:
    """For the shapes of one model."""
    of_times, own = f"sm_{compiled_for(architecture)}", f"sm_{architecture}"
    shapes = {(shape.out_features, shape.in_features) for shape in MODELS["llama3-8b"]}
    some = [product for product in products() if (*product.segments, product.in_features) in shapes]
    assert len(some) == 2 * len(LAYERS) * len(shapes)
    for multiprocessors, gpus in alike(GPUS, architecture).items():
        table = shipped.tables(divmod(architecture, 10))[multiprocessors]
        for product in some:
            chosen = choose(
                product,
                gpus,
                lambda variant: facts[of_times, variant.name],
                lambda variant: facts[own, variant.name],
            )
            assert chosen.tiles == table.get(str(product))


@pytest.mark.parametrize("architecture", TARGETS)
def test_what_is_shipped_was_compiled_and_spills_nothing(
    architecture: int, facts: dict[tuple[str, str], Facts]
) -> None:
    variants = shipped_variants(divmod(architecture, 10))
    for variant in variants:
        found = facts[f"sm_{architecture}", variant.name]
        assert found.spills == 0
        assert 0 < found.registers <= 255
        assert 0 < found.shared <= TARGETS[architecture].shared


@pytest.mark.parametrize("architecture", TARGETS)
def test_what_shape_and_gpu_suggest_spills_nothing(
    architecture: int, facts: dict[tuple[str, str], Facts]
) -> None:
    """Of the layers that tables are for; the report has the code of others."""
    gpus = [gpu for gpu in GPUS if gpu.architecture == architecture]
    for gpu, product, tokens in combinations(gpus, products(), (1, 16)):
        variant = variant_of(product, plan_with(product, tokens, gpu, None))
        assert facts[f"sm_{architecture}", variant.name].spills == 0, variant.name


def test_facts_are_those_of_the_code(facts: dict[tuple[str, str], Facts], compilers: Executor) -> None:
    """A few compiled anew."""
    some = [(architecture, shipped_variants(divmod(architecture, 10))[0]) for architecture in (80, 90)]
    now = list(compilers.map(compiled, *zip(*some, strict=True)))
    assert now == [facts[f"sm_{architecture}", variant.name] for architecture, variant in some]


# ---- the choice ----


def choice(product: Product, gpus: Sequence[Gpu], look: Look) -> Choice:
    return choose(product, gpus, look, look)


def _facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "registers": 128,
        "spills": 0,
        "shared": 36864,
        "weights": 65536,
        "instructions": 420,
        "alu": 180,
        "macs": 131072,
        "l1": 700,
        "loaded": 8192,
        "under_way": 8192.0,
        "warpgroup": False,
        "waits": "",
    }
    return Facts(**{**values, **changes})


def test_only_what_is_better_is_chosen() -> None:
    """Where all code is alike, only splits differ; what spills is passed over, and its gain is not enough."""
    gpus = alike(GPUS, 90)[132]
    large = Product.parse(LARGE)
    assert choice(large, gpus, lambda variant: _facts()).tiles is None

    def slow_with_128(variant: Variant) -> Facts:
        return _facts(instructions=420 if variant.rows < 128 else 4200)

    chosen = choice(large, gpus, slow_with_128)
    assert chosen.tiles is not None
    assert chosen.tiles.rows < 128
    assert chosen.gain > LEAST_GAIN
    assert chosen.after < chosen.before

    def spilled_but(rows: int) -> Any:
        return lambda variant: _facts(
            spills=8 * (variant.rows != rows), instructions=4200 if rows == 32 else 420
        )

    for rows in (32, 64):  # the first is no gain, but the usual tiles spill
        own = choice(large, gpus, spilled_but(rows))
        assert own.tiles is not None
        assert own.tiles.rows == rows
        assert own.spilled

    # Nor what the GPU has no shared memory for.
    def too_large_but_spilled(variant: Variant) -> Facts:
        small = variant.rows < 128
        return _facts(shared=228 << 10 if small else 36864, spills=8 * (not small))

    assert choice(large, gpus, too_large_but_spilled).tiles is None
    for tiles in (None, Tiles(0, 64, 4, 2)):
        plan = plan_with(large, 1, gpus[0], tiles)
        assert isfinite(microseconds(large, plan, _facts(), 1, gpus[0]))
        assert not isfinite(microseconds(large, plan, _facts(shared=228 << 10), 1, gpus[0]))

    # Nor what is estimated from code that spills, even if the code of its splits does not.
    def spills_whole(variant: Variant) -> Facts:
        small = variant.rows < 128
        return _facts(spills=8 * (small and not variant.split), instructions=420 if small else 4200)

    kept = choice(Product.parse(W4), gpus, spills_whole).tiles
    assert kept is None or kept.rows == 128
    exactly = choice(large, gpus, lambda variant: _facts(spills=8 * variant.split, instructions=420))
    assert exactly.tiles is None


@pytest.mark.parametrize(
    ("key", "worse"),
    [
        (LARGE, {"instructions": 4200}),
        (LARGE, {"macs": 131072 * 40}),
        (LARGE, {"l1": 7000}),
        (LARGE, {"registers": 255, "under_way": 500.0}),
        (W4, {"under_way": 500.0}),  # few programs, each of which waits
        (W4, {"waits": "10-12 20-22 30-32"}),
    ],
)
def test_what_makes_a_product_slow(key: str, worse: dict[str, Any]) -> None:
    product = Product.parse(key)
    times = []
    for gpu in GPUS:
        plan = plan_with(product, 1, gpu, Tiles(0, 128, 4, 2))
        times.append([microseconds(product, plan, found, 1, gpu) for found in (_facts(), _facts(**worse))])
    assert all(usual <= slow for usual, slow in times)
    assert any(usual < 0.98 * slow for usual, slow in times)


def test_the_work_of_a_product() -> None:
    product, h100 = Product.parse(W4), GPUS[1]
    plan = plan_with(product, 1, h100, Tiles(0, 128, 4, 2))
    work = work_of(product, plan, _facts(), 1, h100)
    assert work.blocks == 32
    assert work.weights == 4096 * 4096
    assert work.bytes == 4096 * 4096 / 2 + 4096 * 32 * 2
    assert work.instructions == pytest.approx(420 * 32 * 4 / 65536)
    assert work.macs == 131072 * 4 / 65536
    assert work.first == 1 / 8  # turns of 512 inputs
    split = plan_with(product, 1, h100, Tiles(2, 128, 4, 2))
    assert work_of(product, split, _facts(), 1, h100).blocks == 128
    assert work_of(product, split, _facts(), 1, h100).cached == work.cached + 4 * 4 * 4096
    wide = plan_with(product, 16, h100, Tiles(0, 128, 4, 2))
    assert work_of(product, wide, _facts(), 16, h100).blocks == 64  # two tiles of 16 columns


def test_code_is_compiled_once_for_many_shapes() -> None:
    def code(key: str) -> Variant:
        product = Product.parse(key)
        return code_of(product, plan_with(product, 1, GPUS[0], Tiles(0, 64, 4, 2)))

    assert code(W4) == code(W4.replace("4096 x 4096", "14336 x 2048"))
    assert code(W4) == code(W4.replace("x 4096", "x 3584"))  # half spans
    assert code(W4) != code(W4.replace("x 4096", "x 1152"))
    assert len({code(W4).name, code(W4.replace("x 4096", "x 1152")).name}) == 2


def test_what_is_compiled_reads_scales_as_the_product_does() -> None:
    seen = set()
    for product in {one._replace(segments=(FEATURES,)) for one in products()}:
        variant = code_of(product, plan_with(product, 16, GPUS[0], Tiles(0, 128, 4, 2)))
        layer = layer_of(sum(product.widths), product.group_size, in_features=product.in_features)
        kind = Kind(PRECISIONS.index("fast" if product.fast else "high"), 0)
        own = calls_of(layer, kind, 16)[1].constexprs["QUADS"]
        assert variant.launch().constexprs["QUADS"] == own, product
        seen.add((product.widths, product.fast, own))
    # Four at a time or not, but where a digit of one bit and 16 columns leave no room for four.
    grouped = {(product.widths, product.fast) for product in products() if product.grouped}
    both = {kind for kind in grouped if {(*kind, True), (*kind, False)} <= seen}
    eight = ((2, 1), True)
    assert both == {kind for kind in grouped if 1 not in kind[0] or kind == eight}


# ---- facts of a loop ----


def _loop(*lines: tuple[str, str]) -> Loop:
    return Loop(tuple(Instruction(16 * place, "", *line) for place, line in enumerate(lines)))


def test_copies_under_way() -> None:
    """One block of 512 bytes a turn, and columns; waited for at once, or with a turn between."""
    copies = (
        ("LDGSTS.E.BYPASS.128", "[R1], desc[UR4][R2.64]"),
        ("LDGDEPBAR", ""),
        ("LDGSTS.E.64", "[R1], desc[UR4][R2.64]"),
        ("LDGDEPBAR", ""),
    )
    products = (("IMMA", ""),) * 10
    alone = Copies.of(_loop(("DEPBAR.LE", "SB0, 0x0"), *products, *copies), 512)
    assert (alone.loaded, alone.under_way) == (512, 512 * 3 / 15)
    ahead = Copies.of(_loop(("DEPBAR.LE", "SB0, 0x2"), *products, *copies), 512)
    assert (ahead.loaded, ahead.under_way) == (512, 512 + 512 * 3 / 15)


def test_code_without_a_loop() -> None:
    """A loop that is not found is an error."""
    whole = code_of(Product.parse(W4), plan_with(Product.parse(W4), 1, GPUS[0], None))
    straight = Function("f", 80, [], registers=90, shared=0, stack=8)
    with pytest.raises(ValueError, match="copies of 0 bytes"):
        of_function(straight, 1024, 65536, whole)


def test_waits() -> None:
    loop = _loop(
        ("LDG.E.64", "R8, desc[UR4][R2.64]"),
        ("IADD3", "R1, R2, R3, RZ"),
        ("FMUL", "R4, R9, R5"),
        ("LDG.E", "R10, desc[UR4][R2.64]"),
        ("FADD", "R11, R4, R5"),
        ("FMUL", "R12, R10, R5"),
        ("LDG.E", "R11, desc[UR4][R2.64]"),
    )
    assert list(waits_of(loop)) == [(0, 2), (3, 5), (6, 11)]
    assert shortest([(0, 9), (1, 5), (3, 5), (4, 20), (6, 9)]) == [(3, 5), (6, 9)]


def test_stalls() -> None:
    assert stall_clocks([], 100, 4) == 0
    assert stall_clocks([(0, 10)], 100, 4) == 60
    assert stall_clocks([(0, 30)], 100, 4) == 0
    # The second was loaded before the first was waited for, or after that.
    assert stall_clocks([(0, 10), (5, 12)], 100, 4) == 72
    assert stall_clocks([(0, 10), (10, 20)], 100, 4) == 120
