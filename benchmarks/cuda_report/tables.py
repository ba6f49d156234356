"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from report import markdown_table

from .cases import GEMM_TOKENS, SHAPES, SQUARE, TOKENS, Ratios, Row
from .codebooks import matmul_us
from .gpus import ASSUMPTIONS, DRAM_EFFICIENCY, GPUS, LAUNCH_NS, OVERLAPPED_LAUNCH_NS, START_NS, Gpu
from .kernels import find
from .static import Entry

ENOUGH = 0.8  # of the DRAM bandwidth
_SQUARE_TEXT = "8192 x 8192"
PIPES = ("ALU", "FMA", "TENSOR", "MEMORY", "UNIFORM")


def document(
    static: Sequence[Entry], rows: Sequence[Row], bounds: dict[str, dict[str, int | None]], ratios: Ratios
) -> str:
    stream = (
        "Share of the data sheet's DRAM bandwidth while weights stream, and (in brackets) over the whole "
        f"kernel, with its start and end, for M tokens; at most {DRAM_EFFICIENCY:.0%} by assumption. What "
        "bounds it is named where it is not DRAM."
    )
    bound = (
        f"The most tokens for which an estimate at {_SQUARE_TEXT} is bound by DRAM; -: it is not with one."
    )
    parts = [
        "# GPU kernels: compiled code and estimates",
        "Written by `make cuda-report`. Nothing here was measured on a GPU. The first two tables are facts "
        "about the compiled code; all times and shares of bandwidth are **estimates** of the model in "
        "`benchmarks/cuda_report/estimate.py`, with the assumptions at the end of this page.",
        "## Hot loops",
        "Thread instructions per weight, by target; the worst loop of a kernel where scales of several "
        "dtypes have one each. None calls out of line or spills, and weights are read 128 bits at a time.",
        _hot_loops(static),
        "## Resources",
        "Registers of a thread, by target, and static shared memory of a block in bytes.",
        _resources(static),
        f"## Estimates: {_SQUARE_TEXT}",
        stream,
        _square(rows, _bandwidth),
        f"## What reaches {ENOUGH:.0%} of the bandwidth: {_SQUARE_TEXT}",
        f"Those of {_listed(TOKENS)} tokens for which weights stream at {ENOUGH:.0%} or more of the data "
        "sheet's DRAM bandwidth, from the table above: the product's kernel alone, without its start and "
        "end, the prologue and launches. A plan that reads the weight more than once (16 tokens of `high`; "
        "one-bit digits by 128 from 8) has all readings counted. -: none of them.",
        _reached(rows),
        f"## Shares of the budgets: {_SQUARE_TEXT}",
        "What weights that stream at the data sheet's whole DRAM bandwidth would take of the instructions "
        "that a GPU can issue, and (in brackets) of its tensor units. Above 100% memory has to wait.",
        _square(rows, _units),
        "## Estimates: microseconds of a call with one token",
        "Prologue, product and both launches in a captured graph; in brackets the product's kernel alone.",
        _times(rows),
        f"## Estimates: microseconds of many tokens, {_SQUARE_TEXT}",
        "The kernel for more than 16 tokens alone, and what bounds it; in brackets how many times as long as "
        "the vendor's matmul with a fp16 layer at its best (`matmul_us` in `codebooks.py`), without writing "
        "that layer. Above 1 the fp16 layer, of 4 to 16 times the memory, would be quicker.",
        _many(rows),
        "## Where the memory-bound range ends",
        bound,
        _bounds(bounds),
        "## Vector codebooks beside dequantising",
        "How many times as long it takes to write the layer in fp16 and call the vendor's matmul, at the "
        "worst of the shapes above: `dequantized_us` in `codebooks.py` says how, at its best. In brackets "
        "where a fp16 weight that fits in L2 never leaves it. Below 1, dequantising would be quicker; the "
        "library does so above 256 tokens.",
        _ratios(ratios),
        "## Assumptions",
        _gpus(),
        markdown_table(("what", "from"), ASSUMPTIONS).replace("| ---: |", "| --- |"),
    ]
    return "\n\n".join(parts) + "\n"


def _hot_loops(static: Sequence[Entry]) -> str:
    targets = sorted({entry.target for entry in static})
    columns = (
        "kernel",
        *(f"sm_{target}" for target in targets),
        "budget",
        *(f"{pipe}, sm_90" for pipe in PIPES),
    )
    rows = []
    for name in sorted({entry.kernel for entry in static if entry.loops}):
        of_target = {entry.target: entry.worst for entry in static if entry.kernel == name}
        figures = [_number(of_target[t].per_weight) if of_target.get(t) else "-" for t in targets]
        middle = of_target.get(90)
        pipes = [_number(middle.pipes.get(pipe, 0.0)) if middle else "-" for pipe in PIPES]
        kernel = find(name)
        budget = f"{kernel.budget:.2f}" if kernel.budget else ""
        rows.append((kernel.title, *figures, budget, *pipes))
    return markdown_table(columns, rows)


def _resources(static: Sequence[Entry]) -> str:
    targets = sorted({entry.target for entry in static})
    rows = []
    for name in sorted({entry.kernel for entry in static}):
        of_target = {entry.target: entry for entry in static if entry.kernel == name}
        registers = [of_target[t].registers if t in of_target else "-" for t in targets]
        rows.append((f"`{name}`", *registers, max(entry.shared for entry in of_target.values())))
    return markdown_table(("kernel", *(f"sm_{target}" for target in targets), "shared"), rows)


def _square(rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    here = {
        (row.case, row.gpu, row.tokens): cell(row)
        for row in rows
        if (row.out_features, row.in_features) == SQUARE
    }
    columns = ("layer, M", *(gpu.name for gpu in GPUS))
    body = [
        (f"{case}, {tokens}", *(here.get((case, gpu.name, tokens), "-") for gpu in GPUS))
        for case in dict.fromkeys(row.case for row in rows)
        for tokens in TOKENS
    ]
    return markdown_table(columns, body)


def _bandwidth(row: Row) -> str:
    bound = "" if row.bound == "dram" else f" {row.bound}"
    return f"{row.stream:.0%} ({row.share:.0%}){bound}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


def _reached(rows: Sequence[Row]) -> str:
    few = [row for row in rows if (row.out_features, row.in_features) == SQUARE and row.tokens in TOKENS]

    def cell(case: str, gpu: str) -> str:
        found = [str(r.tokens) for r in few if (r.case, r.gpu) == (case, gpu) and r.stream >= ENOUGH]
        return ", ".join(found) or "-"

    body = [
        (case, *(cell(case, gpu.name) for gpu in GPUS)) for case in dict.fromkeys(row.case for row in few)
    ]
    return markdown_table(("layer", *(gpu.name for gpu in GPUS)), body)


def _many(rows: Sequence[Row]) -> str:
    here = {(row.case, row.gpu, row.tokens): row for row in rows if row.tokens in GEMM_TOKENS}

    def cell(case: str, gpu: Gpu, tokens: int) -> str:
        row = here.get((case, gpu.name, tokens))
        if row is None:
            return "-"
        dense = matmul_us(*SQUARE, tokens, gpu, gpu.dram_gbs * DRAM_EFFICIENCY)
        return f"{row.us:.0f} {row.bound} ({row.us / dense:.2f})"

    body = [
        (f"{case}, {tokens}", *(cell(case, gpu, tokens) for gpu in GPUS))
        for case in dict.fromkeys(case for case, _, _ in here)
        for tokens in GEMM_TOKENS
    ]
    return markdown_table(("layer, M", *(gpu.name for gpu in GPUS)), body)


def _units(row: Row) -> str:
    return f"{row.issue:.0%} ({row.tensor:.0%})"


def _times(rows: Sequence[Row]) -> str:
    here = {(row.case, row.gpu, row.out_features, row.in_features): row for row in rows if row.tokens == 1}

    def cell(case: str, gpu: str, shape: tuple[int, int]) -> str:
        row = here.get((case, gpu, *shape))
        return "-" if row is None else f"{row.call_us:.1f} ({row.us:.1f})"

    body = [
        (f"{case}, {shape[0]} x {shape[1]}", *(cell(case, gpu.name, shape) for gpu in GPUS))
        for case in dict.fromkeys(row.case for row in rows)
        for shape in SHAPES
    ]
    return markdown_table(("layer", *(gpu.name for gpu in GPUS)), body)


def _bounds(bounds: dict[str, dict[str, int | None]]) -> str:
    body = [(case, *(of_gpu[gpu.name] or "-" for gpu in GPUS)) for case, of_gpu in bounds.items()]
    return markdown_table(("layer", *(gpu.name for gpu in GPUS)), body)


def _ratios(ratios: Ratios) -> str:
    body = []
    for (case, tokens), of_gpu in ratios.items():
        cells = [f"{of_gpu[gpu.name][0]:.2f} ({of_gpu[gpu.name][1]:.2f})" for gpu in GPUS]
        body.append((f"{case}, {tokens}", *cells))
    return markdown_table(("layer, M", *(gpu.name for gpu in GPUS)), body)


def _gpus() -> str:
    columns = (
        "GPU",
        "code",
        "SMs",
        "GHz",
        "GB/s",
        "L2 MB",
        "L2 GB/s",
        "int8",
        "b1",
        "fp16",
        "ALU lanes",
        "latency ns",
    )
    body = [
        (
            gpu.name,
            f"sm_{gpu.target}",
            gpu.multiprocessors,
            f"{gpu.clock_ghz:.3f}",
            f"{gpu.dram_gbs:,.0f}",
            f"{gpu.l2_mb:.0f}",
            f"{gpu.l2_gbs:,.0f}",
            gpu.int8_macs,
            gpu.b1_macs or "-",
            gpu.f16_macs,
            gpu.alu_lanes,
            f"{gpu.loaded_latency_ns:.0f}",
        )
        for gpu in GPUS
    ]
    fixed = (
        "int8, b1, fp16: multiply-adds of mma.sync a clock and multiprocessor. A kernel's start and end take "
        f"{START_NS} ns, the gap between two kernels {LAUNCH_NS} ns, or {OVERLAPPED_LAUNCH_NS} ns with "
        "programmatic dependent launch (from sm_90 on)."
    )
    return markdown_table(columns, body) + "\n\n" + fixed


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
