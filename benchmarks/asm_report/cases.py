"""The hot loops: where each is in the library, and how many weights one turn of it handles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asm_report.disassembly import Function, Instruction

VECTOR_BYTES = {"amx": 1024, "avx512": 64, "avxvnni": 32, "avx2": 32}
REGISTER = {"amx": "tmm", "avx512": "zmm", "avxvnni": "ymm", "avx2": "ymm"}
BYTE_PRODUCT = {"amx": "tdpb", "avx512": "vpdpbusd", "avxvnni": "vpdpbusd", "avx2": "vpmaddubsw"}
_ISA = {"Avx512": "avx512", "AvxVnni": "avxvnni", "Avx2": "avx2"}


@dataclass(frozen=True)
class Case:
    """A loop to find.

    Attributes:
        pattern: of the function's name.
        isa: instruction set of the function.
        products_per_weight: byte products that one weight takes for each column.
        columns: activation vectors multiplied side by side.
        bits: read per weight; None where a loop reads codes that were expanded before.
        product: how opcodes counted as products begin; None: the byte product of the instruction set.
    """

    title: str
    pattern: str
    isa: str
    products_per_weight: float = 1
    columns: int = 1
    bits: int | None = None
    product: str | None = None


@dataclass(frozen=True)
class Loop:
    """A loop that was found, in counts per turn."""

    case: Case
    instructions: int
    products: int
    weights: float

    @property
    def per_weight(self) -> float:
        return self.instructions / self.weights

    @property
    def floor(self) -> float:
        """Instructions per weight if there were byte products alone."""
        return self.products / self.weights


def _bits(isa: str, planes: int, columns: int, per_token: int) -> Case:
    what = f"{planes} plane" + "s" * (planes > 1)
    precision = "high" if per_token == 2 else "fast"
    # AVX2 and AVX-VNNI have no room for a whole 8-bit code in one byte product, so it takes two.
    return Case(
        f"{what}, {columns} token{'s' * (columns > 1)}, {precision}",
        rf"Product<lowbit::isa::{isa}, {planes}>::few<{columns}, {per_token}>",
        _ISA[isa],
        products_per_weight=2 if isa == "Avx2" and planes > 4 else 1,
        columns=columns * per_token,
        bits=planes,
    )


def _expanded(isa: str, columns: int) -> Case:
    pattern = rf"ExpandedKernel<lowbit::isa::{isa}, \d+l>::group<{columns}, 1>"
    return Case(f"expanded codes, {columns} columns", pattern, _ISA[isa], columns=columns)


def _tiles(planes: int) -> Case:
    # A product of tiles serves 16 columns. The finished sums of 16 columns before are made floats meanwhile.
    pattern = rf"TileProduct<{planes}>::block<1>"
    what = f"{planes} plane" + "s" * (planes > 1)
    return Case(f"{what}, 16 columns by tiles", pattern, "amx", products_per_weight=1 / 16, columns=16)


def _lookup(isa: str, lookup: str, columns: int, products_per_weight: float = 1 / 2) -> Case:
    loop = r"tile\(" if columns == 1 else f"group<{columns}, 1>"
    return Case(
        f"1 plane by look-up, {columns} token{'s' * (columns > 1)}, fast",
        rf"LookupProduct<.*{lookup}.*>::{loop}",
        _ISA[isa],
        products_per_weight,
        columns,
        bits=1,
        product="vperm" if isa == "Avx512" else "vbroadcasti128",
    )


def _scalar(bits: int, four_rows: bool = False) -> Case:
    # Rows of whole chunks of 512 inputs go one at a time; four where most of a chunk would be empty.
    return Case(
        f"scalar codebook of {bits} bits, 1 token, fast" + ", four short rows" * four_rows,
        rf"codebook::Quads<.*, {bits}>::block<1, .*LookedUp>"
        if four_rows
        else rf"codebook::TablesKernel<.*::Vectors, {bits}>::digits_rows<1>",
        "avx512",
        products_per_weight=3,  # an entry has three digits
        bits=bits,
    )


CASES = (
    *(_bits("Avx512", planes, 1, 1) for planes in (1, 2, 3, 4, 8)),
    *(_bits("Avx512", 1, columns, 1) for columns in (2, 4)),
    _bits("Avx512", 1, 1, 2),
    *(_expanded("Avx512", columns) for columns in (1, 6)),
    *(_tiles(planes) for planes in (1, 4, 8)),
    *(_scalar(bits) for bits in (2, 3, 4)),
    _scalar(3, four_rows=True),
    _lookup("Avx512", "::Lookup512", 1),
    # Three look-ups for 32 words of 16 inputs.
    *(_lookup("Avx512", "WordLookup512", columns, 3 / 8) for columns in (2, 8)),
    *(
        _lookup(isa, f"Lookup256<lowbit::isa::{isa}>", columns)
        for isa in ("AvxVnni", "Avx2")
        for columns in (1, 2)
    ),
    *(_bits(isa, planes, 1, 1) for isa in ("AvxVnni", "Avx2") for planes in (2, 4)),
    *(_expanded(isa, 4) for isa in ("AvxVnni", "Avx2")),
)


def find(cases: Sequence[Case], library: Iterable[Function]) -> list[Loop]:
    """The loop of every case that the library has: the innermost one with most byte products."""
    found: dict[Case, Loop] = {}
    for function in library:
        for case in cases:
            if not re.search(case.pattern, function.name):
                continue
            for body in function.innermost_loops():
                loop = _loop(case, body)
                if loop is not None and (case not in found or found[case].products < loop.products):
                    found[case] = loop
    return [found[case] for case in cases if case in found]


def _loop(case: Case, body: Sequence[Instruction]) -> Loop | None:
    product = case.product or BYTE_PRODUCT[case.isa]
    # Functions of one name exist for several instruction sets, whose vectors differ.
    register = REGISTER[case.isa]
    products = sum(item.opcode.startswith(product) and register in item.operands for item in body)
    if products == 0:
        return None
    bytes_ = products * VECTOR_BYTES[case.isa]
    weights = bytes_ / (case.products_per_weight * case.columns)
    return Loop(case, len(body), products, weights)
