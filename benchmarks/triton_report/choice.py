"""Which tiles are shipped: those of the candidates of `lowbit tune` that the estimate puts first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product as combinations
from math import isfinite
from statistics import mean

from cuda_report.gpus import Gpu
from lowbit.triton_kernels.bits.config import Config, Product, config
from lowbit.triton_kernels.bits.variants import Variant, variant_of
from lowbit.triton_kernels.gpu import Gpu as Described
from lowbit.tuning import Tiles, candidates
from shapes import MODELS

from .estimate import microseconds
from .facts import Facts

Look = Callable[[Variant], Facts]

TOKENS = (1, 2, 4, 8, 16)
LEAST_GAIN = 0.03  # an estimate that says less says nothing
# Widths of digits and size of groups, each in `high` and in `fast`.
LAYERS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((1,), -1),
    ((1,), 128),
    ((2,), 128),
    ((2, 1), 128),
    ((4,), 128),
    ((4, 4), 128),
)


@dataclass(frozen=True)
class Choice:
    """Of a product: tiles, None where those from shape and GPU stay.

    `gain`: 1 - time / time with the latter, the mean over TOKENS and GPUs; with one token on the first GPU
    `before` and `after` microseconds of a call. `spilled`: registers were, without these tiles.
    """

    product: str
    tiles: Tiles | None
    gain: float
    before: float
    after: float
    spilled: bool


def products() -> Iterator[Product]:
    """Of every layer, precision and shape."""
    shapes = dict.fromkeys(shape for shapes in MODELS.values() for shape in shapes)
    for (widths, group_size), fast, shape in combinations(LAYERS, (False, True), shapes):
        form = "scaled" if fast or group_size > 0 else "integers"
        rows, inputs = (shape.out_features,), shape.in_features
        yield Product(form, rows, inputs, widths, 1 if fast else 2, group_size, fast=fast)


def alike(gpus: Sequence[Gpu], architecture: int) -> dict[int, list[Gpu]]:
    """Those of an architecture by multiprocessors: what is alike to the choice of tiles."""
    found: dict[int, list[Gpu]] = {}
    for gpu in gpus:
        if gpu.architecture == architecture:
            found.setdefault(gpu.multiprocessors, []).append(gpu)
    return found


def plan_with(product: Product, tokens: int, gpu: Gpu, tiles: Tiles | None) -> Config:
    table = {} if tiles is None else {str(product): tiles}
    capability = divmod(gpu.architecture, 10)
    return config(product, tokens, Described(gpu.multiprocessors, capability=capability, shipped=table))


def main_loop(variant: Variant) -> Variant:
    """The one whose facts stand for all that differ in splits, which change the end of a program alone."""
    return variant._replace(split=False)


def code_of(product: Product, plan: Config) -> Variant:
    return main_loop(variant_of(product, plan))


def looked_at(gpu: Gpu) -> set[Variant]:
    """All whose facts a choice may ask for, but those of what is chosen."""
    return {
        code_of(product, plan_with(product, tokens, gpu, tiles))
        for product in products()
        for tiles in (None, *candidates(str(product)))
        for tokens in (TOKENS[0], TOKENS[-1])
    }


def choose(product: Product, gpus: Sequence[Gpu], look: Look, own_code: Look) -> Choice:
    """For GPUs with as many multiprocessors.

    The tiles of the least mean time that for no number of tokens, on no GPU, take longer than the usual ones,
    and none that spill. If the usual ones spill, those of the least mean time. Times are estimated from the
    facts that `look` gives; what spills is known from `own_code`, compiled for the GPUs themselves.
    """
    cases = list(combinations(gpus, TOKENS))
    plans = [partial(plan_with, product, tokens, gpu) for gpu, tokens in cases]

    def times(tiles: Tiles | None) -> list[float]:
        return [
            microseconds(product, plan(tiles), look(code_of(product, plan(tiles))), tokens, gpu)
            for plan, (gpu, tokens) in zip(plans, cases, strict=True)
        ]

    def spills(tiles: Tiles | None, exactly: bool) -> bool:
        of, facts_of = (variant_of, own_code) if exactly else (code_of, look)
        # In the order of the cases: the first that spills ends the search, whose facts are written down.
        variants = dict.fromkeys(of(product, plan(tiles)) for plan in plans)
        return any(facts_of(variant).spills for variant in variants)

    usual, spilled = times(None), spills(None, exactly=True)
    scored = []
    seen = {tuple(plan(None) for plan in plans)}
    for tiles in candidates(str(product)):
        if (planned := tuple(plan(tiles) for plan in plans)) in seen:
            continue
        seen.add(planned)
        own = times(tiles)
        ratios = [round(a / b, 4) for a, b in zip(own, usual, strict=True)]
        gains = mean(ratios) <= 1 - LEAST_GAIN and max(ratios) <= 1
        if (gains or spilled) and isfinite(max(own)) and not spills(tiles, exactly=False):
            scored.append((round(mean(ratios), 4), tiles, own[0]))
    for ratio, tiles, first in sorted(scored):
        if not spills(tiles, exactly=True):
            return Choice(str(product), tiles, round(1 - ratio, 4), usual[0], first, spilled)
    return Choice(str(product), None, 0.0, usual[0], usual[0], spilled)
