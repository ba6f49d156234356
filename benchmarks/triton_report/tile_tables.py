"""The choice of tiles as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from cuda_report.gpus import Gpu
from lowbit.triton_kernels.bits.config import Product
from lowbit.triton_kernels.bits.variants import Variant
from report import markdown_table
from shapes import MODELS

from .choice import LEAST_GAIN, TOKENS, Choice
from .facts import Facts

# Architecture and multiprocessors: the GPUs with these, and what was chosen for them.
Chosen = Mapping[tuple[int, int], tuple[Sequence[Gpu], Sequence[Choice]]]

# By compiled architecture, the code of the tiles that are shipped for it.
Code = Mapping[int, Mapping[Variant, Facts]]

SHOWN = "llama3-8b"
# Thread instructions a weight that usual tiles keep to, by digits and whether rows have scales inside.
BUDGETS = {((1,), False): 0.55, ((1,), True): 1.0, ((4,), True): 1.0}


def document(chosen: Chosen, code: Code) -> str:
    return (
        "\n\n".join(
            [
                "# Triton kernels: shipped tiles",
                "Written by `make triton-tables`. **Estimates, no measurements**: of code that was compiled "
                "and never run on a GPU, by the model in `benchmarks/triton_report/estimate.py`. Facts of "
                "the code and all choices are in `triton_tiles.json`.",
                "Candidates are those of `lowbit tune`; the tiles that shape and GPU suggest "
                "(`triton_kernels/bits/config.py`) are replaced where a call is estimated to take "
                f"{LEAST_GAIN:.0%} less, the mean over {', '.join(map(str, TOKENS))} tokens and the GPUs of "
                "a row, and in none of these cases more; or where their code spills registers. What is "
                "chosen does not spill.",
                "## How many",
                "Products looked at, and how many of them have other tiles than shape and GPU suggest; in "
                "brackets for how many of these that is because registers are spilled otherwise. What a call "
                "gains on average, those that stay as they were included and those left out.",
                markdown_table(
                    ("GPU", "code", "products", "other tiles", "gain of all", "gain of these"),
                    _counts(chosen),
                ),
                "## By kind of layer",
                "Other tiles / products, and the mean gain of all.",
                markdown_table(("layer", *(_title(gpus) for gpus, _ in chosen.values())), _kinds(chosen)),
                f"## Layers of {SHOWN}, one token",
                "Microseconds of a call, estimated: with the tiles that shape and GPU suggest, and with "
                "others where there are any (programs a multiprocessor, rows, warps, stages; with 0 programs "
                "rows are never split).",
                markdown_table(("layer", *(_title(gpus) for gpus, _ in chosen.values())), _calls(chosen)),
                "## Beyond the budget of instructions",
                "Tiles are chosen by time, of which instructions are a part: with 16 rows a warp, small "
                "layers fill the GPU and columns are spread over more warps, at more instructions a weight. "
                "Codes of shipped tiles, of all targets, and how many of them take more thread instructions "
                "a weight than the budget of their kind; the most that one takes. `fast` of whole rows has "
                "no tile of 16 columns within it.",
                markdown_table(("layer", "columns", "budget", "codes", "beyond", "most"), _beyond(code)),
                "## Code",
                "Thread instructions per weight and registers of shipped tiles, rows x columns, by target "
                "that has them, and shared memory in bytes. None spills. Rows are ragged where they are "
                "no whole turns of the loops.",
                markdown_table(("tiles", *(f"sm_{target}" for target in code), "shared"), _code(code)),
            ]
        )
        + "\n"
    )


def _title(gpus: Iterable[Gpu]) -> str:
    return ", ".join(gpu.name for gpu in gpus)


def _counts(chosen: Chosen) -> Iterator[tuple[Any, ...]]:
    for (architecture, _), (gpus, found) in chosen.items():
        others = [one for one in found if one.tiles is not None]
        yield (
            _title(gpus),
            f"sm_{architecture}",
            len(found),
            f"{len(others)} ({sum(one.spilled for one in others)})",
            f"{mean(one.gain for one in found):.1%}",
            f"{mean(one.gain for one in others):.1%}" if others else "",
        )


def kind_of(product: str) -> str:
    """Without sizes, as a reader calls it."""
    parsed = Product.parse(product)
    scales = f"groups of {parsed.group_size}" if parsed.grouped else "whole rows"
    return f"{sum(parsed.widths)} bits, {scales}, {'fast' if parsed.fast else 'high'}"


def _kinds(chosen: Chosen) -> Iterator[tuple[Any, ...]]:
    (_, first), *_ = chosen.values()
    for kind in dict.fromkeys(kind_of(one.product) for one in first):
        cells = []
        for _, found in chosen.values():
            own = [one for one in found if kind_of(one.product) == kind]
            others = sum(one.tiles is not None for one in own)
            cells.append(f"{others} / {len(own)}, {mean(one.gain for one in own):.1%}")
        yield (kind, *cells)


def _calls(chosen: Chosen) -> Iterator[tuple[Any, ...]]:
    shapes = {(shape.out_features, shape.in_features) for shape in MODELS[SHOWN]}
    for row in zip(*(found for _, found in chosen.values()), strict=True):
        product = Product.parse(row[0].product)
        if (*product.segments, product.in_features) in shapes:
            layer = f"{product.segments[0]} x {product.in_features}, {kind_of(row[0].product)}"
            yield (layer, *map(_call, row))


def _call(one: Choice) -> str:
    if one.tiles is None:
        return f"{one.before:.1f}"
    return f"{one.before:.1f}, {one.after:.1f} ({', '.join(map(str, one.tiles))})"


def _figures(variant: Variant, own: Facts) -> str:
    return f"{own.per_weight(variant.warps):.2f}, {own.registers}"


def _beyond(code: Code) -> Iterator[tuple[Any, ...]]:
    found: dict[tuple[str, int, float], list[float]] = {}
    for variant, own in ((variant, own) for each in code.values() for variant, own in each.items()):
        product = variant.product
        if (budget := BUDGETS.get((product.widths, product.grouped))) is not None:
            key = (kind_of(str(product)), variant.columns, budget)
            found.setdefault(key, []).append(own.per_weight(variant.warps))
    for (kind, columns, budget), taken in sorted(found.items()):
        yield kind, columns, budget, len(taken), sum(each > budget for each in taken), f"{max(taken):.2f}"


def _code(code: Code) -> Iterator[tuple[Any, ...]]:
    for variant in sorted({variant for found in code.values() for variant in found}):
        facts = [found.get(variant) for found in code.values()]
        cells = [_figures(variant, own) if own else "" for own in facts]
        yield (variant.name.removeprefix("shipped: "), *cells, max(own.shared for own in facts if own))
