"""What each kernel of the library must contain, and how many weights one of its instructions covers.

A kernel is found by its name. One that matches nothing here is an error: whoever adds a kernel says what it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

# Weights of an A fragment: rows x inputs of m16n8k32 and m16n8k256; of a B fragment of m16n8k16.
IMMA_WEIGHTS, BMMA_WEIGHTS, HMMA_WEIGHTS = 16 * 32, 16 * 256, 8 * 16
COLUMNS = 8  # of a B fragment

FORMS = ("one", "two", "four", "mixed", "planes")  # csrc/cuda/bits/bits.h
FLUSHES = ("whole rows", "scales by row", "scales by 128", "scales by 32")


@dataclass(frozen=True)
class Kernel:
    """
    Attributes:
        title: for people.
        opcode: what its hot loops must have; None: no hot loop, only resources are looked at.
        weights: that one such instruction covers.
        macs: multiply-adds of one such instruction.
        digits: a byte that is loaded holds 1, 2, 4 or 8 weights (of the digit of so many bits).
        budget: most thread instructions per weight, where one is set.
        absent: targets that have no code for it.
        row_tiles: of a warp.
        chunks: columns are copied to shared memory, span by span.
        counts_columns: whoever estimates it says how often columns are read, which the layer decides.
    """

    title: str
    opcode: str | None = None
    weights: float = 0
    macs: int = 0
    digits: bool = False
    budget: float | None = None
    absent: tuple[int, ...] = ()
    row_tiles: int = 1
    chunks: bool = False
    counts_columns: bool = False


def _whole(arguments: Sequence[int]) -> Kernel:
    form, column_tiles = FORMS[arguments[0]], arguments[1]
    budgets = {"one": (0.40, 0.50), "planes": (1.6, 1.6), "four": (0.60, 0.60)}
    return Kernel(
        title=f"bits {form}, whole rows, {8 * column_tiles} columns",
        opcode="IMMA.16832.U8.S8",
        weights=IMMA_WEIGHTS / column_tiles,
        macs=IMMA_WEIGHTS * COLUMNS,
        digits=True,
        budget=budgets[form][column_tiles - 1] if form in budgets else None,
        row_tiles=2 if form == "one" else 1,
        chunks=form == "one",
    )


def _grouped(arguments: Sequence[int]) -> Kernel:
    form, column_tiles, by_steps = FORMS[arguments[0]], arguments[1], arguments[2]
    budgets = {"one": 0.85, "four": 0.60, "planes": 1.6}
    return Kernel(
        title=f"bits {form}, scales by {32 if by_steps else 128}, {8 * column_tiles} columns",
        opcode="IMMA.16832.U8.S8",
        weights=IMMA_WEIGHTS / column_tiles,
        macs=IMMA_WEIGHTS * COLUMNS,
        digits=True,
        budget=None if by_steps else budgets.get(form),
    )


def _by_row(arguments: Sequence[int]) -> Kernel:
    """Only activations have groups: weights have the scales, and so the budget, of whole rows."""
    form, column_tiles = arguments
    title = f"bits {FORMS[form]}, scales by row, {8 * column_tiles} columns"
    return replace(_grouped((form, column_tiles, 0)), title=title, budget=_whole(arguments).budget)


def _pairs(arguments: Sequence[int]) -> Kernel:
    kernel = _grouped((*arguments, 0))
    return replace(kernel, title=kernel.title + " in pairs")


def _b1(arguments: Sequence[int]) -> Kernel:
    (column_tiles,) = arguments
    return Kernel(
        title=f"bits b1, whole rows, {8 * column_tiles} planes",
        opcode="BMMA.168256.AND.POPC",
        weights=BMMA_WEIGHTS / column_tiles,
        macs=BMMA_WEIGHTS * COLUMNS,
        budget=0.12 if column_tiles == 1 else None,
        absent=(100, 120),
    )


def _gemm(arguments: Sequence[int]) -> Kernel:
    return Kernel(
        title=f"bits GEMM, 64 columns, {FLUSHES[arguments[0]]}",
        opcode="IMMA.16832.U8.S8",
        weights=IMMA_WEIGHTS / 8,
        macs=IMMA_WEIGHTS * COLUMNS,
        digits=True,
    )


def _selectors(arguments: Sequence[int]) -> Kernel:
    bits, column_tiles, fast = arguments
    products = 4 if bits == 4 else 2  # two bytes of an entry, and of 16 entries two halves
    return Kernel(
        title=f"scalar codebook of {bits} bits, {'fast' if fast else 'high'}, {8 * column_tiles} columns",
        opcode="IMMA.16832.S8.S8",
        weights=IMMA_WEIGHTS / column_tiles / products,
        macs=IMMA_WEIGHTS * COLUMNS,
    )


def _vectors(arguments: Sequence[int]) -> Kernel:
    (size,) = arguments
    return Kernel(
        title=f"vector codebook of {size} inputs, 16 columns (per codebook)",
        opcode="HMMA.16816.F32",
        weights=HMMA_WEIGHTS,
        macs=HMMA_WEIGHTS * 16,
        counts_columns=True,
    )


def _plain(title: str) -> Callable[[Sequence[int]], Kernel]:
    """A kernel that is looked at for its resources only."""
    return lambda arguments: Kernel(title)


_KERNELS: tuple[tuple[str, Callable[[Sequence[int]], Kernel]], ...] = (
    ("gemv_whole", _whole),
    ("gemv_by_row", _by_row),
    ("gemv_grouped", _grouped),
    ("gemv_pairs", _pairs),
    ("gemv_b1", _b1),
    ("gemm_kernel", _gemm),
    ("exact_product", _plain("bits fp32")),
    (r"expand_\w+|finish_rows", _plain("weights for many tokens")),
    (r"\w+_prologue", _plain("prologue")),
    (r"(re|un)pack_\w+", _plain("bits layout")),
    ("selectors_kernel", _selectors),
    ("tensor_kernel", _vectors),
    ("floats_kernel", _plain("scalar codebook fp32")),
    ("outliers_kernel", _plain("scalar codebook outliers")),
    ("parts_kernel|gather_kernel|sums_kernel|finish_kernel", _plain("codebook fp32")),
    (r"(tiles|digits|restore|codes|halves|order|stage)_kernel", _plain("codebook layout")),
)


def find(name: str) -> Kernel:
    """The entry for a demangled name such as "gemv_whole<(Form)0, 1>".

    Raises:
        LookupError: there is none.
    """
    parts = re.fullmatch(r"(?:\w+::)*(\w+)(?:<(.*)>)?", name)
    for pattern, make in _KERNELS:
        if parts and re.fullmatch(pattern, parts[1]):
            return make([_number(argument) for argument in (parts[2] or "").split(", ") if argument])
    raise LookupError(f"kernel {name} is not in benchmarks/cuda_report/kernels.py")


def _number(argument: str) -> int:
    """A template argument: "1", "true", "(Form)2"; -1 for a type."""
    value = re.sub(r"^\(.*\)", "", argument)
    return {"true": 1, "false": 0}.get(value, int(value) if re.fullmatch(r"-?\d+", value) else -1)
