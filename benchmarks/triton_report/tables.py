"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.backends.triton import WHY_OLDEST
from report import markdown_table

from .compiling import Entry
from .static import SHIPPED, names
from .targets import AMD, NVIDIA, TOO_OLD

# Titles of cuda_report: the CUDA C++ kernel that does the same at as many columns.
CUDA = {
    "signs, BinaryMoS, high, 1 tokens": "bits one, whole rows, 8 columns",
    "signs, BinaryMoS, high, 4 tokens": "bits one, whole rows, 8 columns",
    "signs, BinaryMoS, high, 8 tokens": "bits one, whole rows, 16 columns",
    "signs, BinaryMoS, fast, 1 tokens": "bits one, scales by 128, 8 columns",
    "signs, BinaryMoS, fast, 8 tokens": "bits one, scales by 128, 8 columns",
    "signs, BinaryMoS, fast, 16 tokens": "bits one, scales by 128, 16 columns",
    "signs, g128, high, 4 tokens": "bits one, scales by 128, 8 columns",
    "signs, g128, high, 8 tokens": "bits one, scales by 128, 16 columns",
    "planes, W4 g128, high, 1 tokens": "bits four, scales by 128, 8 columns",
    "planes, W4 g128, high, 8 tokens": "bits four, scales by 128, 16 columns",
    "scalar, 2 bits, high, narrow": "scalar codebook of 2 bits, high, 8 columns",
    "scalar, 3 bits, high, narrow": "scalar codebook of 3 bits, high, 8 columns",
    "scalar, 4 bits, high, narrow": "scalar codebook of 4 bits, high, 8 columns",
}

MANY = "many tokens"


def document(entries: Sequence[Entry], cuda: Sequence[dict[str, Any]]) -> str:
    of = {(item.launch, item.target): item for item in entries}
    everything = [*SHIPPED, AMD.name]
    old = [of[name, TOO_OLD.name] for name in names(TOO_OLD)]
    compiled = [item for item in old if not item.refused]
    return (
        "\n\n".join(
            [
                "# Triton kernels: compiled code",
                "Written by `make triton-report`. These kernels have **never run on a GPU**: their values "
                "are tested in Triton's interpreter, and this is what it compiles them to ahead of time. "
                f"{AMD.name} (MI300) is compiled and untested. The code of other tiles, shipped for layers "
                "of common models, is in [triton_tiles.md](triton_tiles.md).",
                "## Hot loops",
                "Thread instructions per weight and tile of columns, summed over the digits of a code; "
                "beside them those of the CUDA C++ kernel for the same layer and columns, on sm_90.",
                markdown_table(("kernel", *SHIPPED, "CUDA C++"), list(_rates(of, cuda))),
                "## Hot loops for many tokens",
                "Thread instructions per weight and token, of tiles of 32 to 128 tokens; summed over the "
                "digits of a code.",
                markdown_table(("kernel", *SHIPPED), list(_rates_of_many(of))),
                "## Resources",
                "Registers of a thread, by target; where any are spilled, bytes of stack in brackets. Shared "
                "memory of a block on sm_90, in bytes.",
                markdown_table(("kernel", *everything, "shared"), list(_resources(of, everything))),
                f"## {TOO_OLD.name}",
                f"The backend takes 8.0 and newer: {WHY_OLDEST}. It refuses every layer with that reason. "
                f"{len(old) - len(compiled)} of {len(old)} launches have no code that could be used, for "
                "these reasons:",
                markdown_table(("reason", "launches", "which"), list(_refused(old))),
                "The others compile and spill nothing. Registers, shared memory in bytes, and thread "
                "instructions per weight:",
                markdown_table(
                    ("kernel", "registers", "shared", "per weight"), [_too_old(item) for item in compiled]
                ),
            ]
        )
        + "\n"
    )


def _rates(of: dict[tuple[str, str], Entry], cuda: Sequence[dict[str, Any]]) -> Any:
    known = {
        item["title"]: max(loop["per_weight"] for loop in item["loops"])
        for item in cuda
        if item["target"] == 90 and item["loops"]
    }
    for name in names(NVIDIA[0]):
        figures = [of[name, target].per_weight for target in SHIPPED]
        if any(figures) and not name.endswith(MANY):
            beside = known.get(CUDA.get(name, ""))
            yield (name, *map(_number, figures), _number(beside))


def _rates_of_many(of: dict[tuple[str, str], Entry]) -> Any:
    for name in names(NVIDIA[0]):
        if name.endswith(MANY):
            figures = (of[name, target].per_weight for target in SHIPPED)
            yield (name, *("" if figure is None else f"{figure:.3f}" for figure in figures))


def _resources(of: dict[tuple[str, str], Entry], targets: Sequence[str]) -> Any:
    for name in names(NVIDIA[0]):
        cells = [of.get((name, target)) for target in targets]
        yield (name, *("" if cell is None else _registers(cell) for cell in cells), of[name, "sm_90"].shared)


def _refused(old: Sequence[Entry]) -> Any:
    reasons: dict[str, list[str]] = {}
    for item in old:
        if item.refused:
            reasons.setdefault(item.refused, []).append(item.launch)
    for reason, found in reasons.items():
        yield reason, len(found), "; ".join(found)


def _too_old(item: Entry) -> tuple[Any, ...]:
    return item.launch, _registers(item), item.shared, _number(item.per_weight)


def _registers(item: Entry) -> str:
    if item.refused:
        return "-"
    return f"{item.registers} ({item.spills})" if item.spills else str(item.registers)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
