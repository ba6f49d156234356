"""The layers, shapes and batches of the estimate, and the launch each of them makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .codebooks import CODEBOOKS, Product, dequantized_us, product
from .estimate import Work, estimate
from .gpus import DEPENDENT_CLOCKS, GPUS, L2_BYTES_PER_CLOCK, LAUNCH_NS, START_NS, Gpu, gap_ns
from .kernels import COLUMNS, FLUSHES, FORMS, find
from .occupancy import occupancy
from .plans import BitsCase, Case, Planner, VectorCase
from .static import Entry

SHAPES = (
    (4096, 4096),
    (11008, 4096),
    (4096, 11008),
    (8192, 8192),
    (28672, 8192),
)  # out_features, in_features
SQUARE = (8192, 8192)
TOKENS = (1, 4, 8, 16)
GEMM_TOKENS = (32, 64, 128, 256)  # of layers on bit tiles
RATIO_TOKENS = (1, 16, 32, 64, 128, 256)
MOST_TOKENS = 256  # to look for the end of the memory-bound range
GEMV_COLUMNS = 16  # of a pass over the weight
GEMM_COLUMNS, GEMM_ROWS, GEMM_WARPS = 64, 128, 8  # of a block
SPAN_INPUTS = 1024
COPY_INSTRUCTIONS = 5  # of a 16-byte piece of a column on its way to shared memory
COPIED_AT_ONCE = 2  # such pieces of a thread, of each tile of columns

# By layer and tokens, by GPU: through DRAM, and in L2.
Ratios = dict[tuple[str, int], dict[str, tuple[float, float]]]

CASES: tuple[Case, ...] = (
    BitsCase("BinaryMoS, 4 experts, high", (1,), experts=4),
    BitsCase("BinaryMoS, 4 experts, fast", (1,), experts=4, precision="fast"),
    BitsCase("signs g128 (Q1_0), high", (1,), group_size=128),
    BitsCase("signs g128 (Q1_0), fast", (1,), group_size=128, precision="fast"),
    BitsCase("W2 g128, high", (2,), group_size=128),
    BitsCase("W2 g128, fast", (2,), group_size=128, precision="fast"),
    BitsCase("W4 g128, high", (4,), group_size=128),
    BitsCase("W4 g128, fast", (4,), group_size=128, precision="fast"),
    BitsCase("W4 g128, one-bit digits, high", (1, 1, 1, 1), group_size=128),
    BitsCase("W4 rows, high", (4,)),
    BitsCase("W1A1", (1,), activation_bits=1),
    BitsCase("W4A4, one-bit digits", (1, 1, 1, 1), activation_bits=4),
    *CODEBOOKS,
)


@dataclass(frozen=True)
class Row:
    """One layer, batch and GPU. All times are estimates."""

    case: str
    out_features: int
    in_features: int
    tokens: int
    gpu: str
    kernel: str
    blocks: int
    warps: int
    occupancy: int  # warps of a multiprocessor
    limit: str
    us: float  # of the product's kernel
    call_us: float  # with the prologue and both launches, in a captured graph
    share: float  # of the DRAM bandwidth, kernel
    stream: float  # of the DRAM bandwidth, without its start and end
    bound: str
    issue: float
    tensor: float


def kernel_name(case: BitsCase, plan: dict[str, Any]) -> str | None:
    """The kernel's name in the library, for the GEMVs."""
    column_tiles = 1 if plan["columns"] <= 8 * plan["passes"] else 2
    digits = tuple(case.digits)
    form = {(1,): "one", (2,): "two", (4,): "four"}.get(digits, "planes" if set(digits) == {1} else "mixed")
    if plan["kernel"] == "b1_gemv":
        return f"b1::gemv_b1<{column_tiles}>"
    if plan["kernel"] == "imma_gemv":
        if case.group_size == -1 and case.precision != "fast":
            return f"gemv_whole<(Form){FORMS.index(form)}, {column_tiles}>"
        if case.group_size == -1:
            return f"gemv_by_row<(Form){FORMS.index(form)}, {column_tiles}>"
        by_32 = case.group_size != -1 and case.group_size % 128 != 0
        in_pairs = case.precision == "high" and not by_32 and case.activation_bits == 0
        if in_pairs and form in ("one", "two", "four"):
            return f"gemv_pairs<(Form){FORMS.index(form)}, {column_tiles}>"
        return f"gemv_grouped<(Form){FORMS.index(form)}, {column_tiles}, {str(by_32).lower()}>"
    return None


def prologue_ns(gpu: Gpu, case: Case, in_features: int) -> float:
    """One block a token: all it reads passes through one multiprocessor, in three dependent steps."""
    read = in_features * 2 * (1 + 2 * (case.experts if isinstance(case, BitsCase) else 0))
    return START_NS + 3 * gpu.loaded_latency_ns / 2 + read / (L2_BYTES_PER_CLOCK * gpu.clock_ghz)


def rows(planner: Planner, static: Sequence[Entry]) -> Iterator[Row]:
    known = {(entry.kernel, entry.target): entry for entry in static}
    for case in CASES:
        for shape in SHAPES:
            for tokens in TOKENS:
                for gpu in GPUS:
                    row = one(planner, known, case, *shape, tokens, gpu)
                    if row is not None:
                        yield row
    for case in (case for case in CASES if isinstance(case, BitsCase)):
        for tokens in GEMM_TOKENS:
            for gpu in GPUS:
                row = one(planner, known, case, *SQUARE, tokens, gpu)
                if row is not None:
                    yield row


def one(
    planner: Planner,
    known: dict[tuple[str, int], Entry],
    case: Case,
    out_features: int,
    in_features: int,
    tokens: int,
    gpu: Gpu,
) -> Row | None:
    plan = planner.explain(case, out_features, in_features, tokens, gpu.architecture, gpu.multiprocessors)
    if isinstance(case, BitsCase) and plan["kernel"] == "gemm":
        done = gemm(case, plan, known, out_features, in_features, gpu)
    elif isinstance(case, BitsCase):
        done = bits(case, plan, known, out_features, in_features, tokens, gpu)
    else:
        done = product(case, plan, known, out_features, in_features, gpu)
    if done is None:
        return None
    before = LAUNCH_NS + gap_ns(gpu) + (prologue_ns(gpu, case, in_features) if done.prologue else 0)
    found = done.found
    return Row(
        case=case.title,
        out_features=out_features,
        in_features=in_features,
        tokens=tokens,
        gpu=gpu.name,
        kernel=done.kernel,
        blocks=done.blocks,
        warps=done.warps,
        occupancy=done.resident.warps,
        limit=done.resident.limit,
        us=round(found.us, 3),
        call_us=round(found.us + before / 1e3, 3),
        share=round(found.share, 4),
        stream=round(found.stream, 4),
        bound=found.bound,
        issue=round(found.issue, 4),
        tensor=round(found.tensor, 4),
    )


def bits(
    case: BitsCase,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    tokens: int,
    gpu: Gpu,
) -> Product | None:
    """The product of a layer on bit tiles; None where it is none of the GEMVs."""
    name = kernel_name(case, plan)
    entry = known.get((name, gpu.target)) if name else None
    if name is None or entry is None or entry.worst is None:
        return None
    kernel, loop = find(entry.kernel), entry.worst
    threads = 32 * plan["row_warps"] * plan["input_warps"]
    resident = occupancy(gpu, entry.registers, entry.shared + plan["shared_bytes"], threads)
    one_bit = kernel.opcode is not None and kernel.opcode.startswith("BMMA")
    rate = gpu.b1_macs if one_bit else gpu.int8_macs
    weights = out_features * in_features * digits_read(case, entry) * plan["passes"]
    read = plan["bytes"]["weight"] + plan["bytes"]["scales"]
    column_bytes = in_features / 8 if one_bit else in_features
    columns = -(-plan["columns"] // plan["passes"])
    blocks, splits = plan["blocks"] * plan["passes"], plan["splits"]
    sum_bytes = 8 if name.startswith("gemv_whole") and not kernel.chunks else 4
    sums = 2 * splits * out_features * tokens * sum_bytes if splits > 1 else 0  # written and read
    copies = 0.0
    if kernel.chunks:  # those of one turn of the copy are in the loop as it was counted
        pieces = columns * SPAN_INPUTS / 16 / (32 * plan["row_warps"])
        others = max(0.0, pieces - COPIED_AT_ONCE * -(-columns // COLUMNS))
        copies = others * COPY_INSTRUCTIONS / (kernel.row_tiles * 16 * SPAN_INPUTS / 32)
    work = Work(
        blocks=blocks,
        weights=weights,
        bytes=read,
        cached=read + blocks / splits * columns * column_bytes + sums,
        l1=loop.l1_per_weight,
        instructions=loop.per_weight + copies,
        alu=loop.pipes.get("ALU", 0.0) + copies / 2,
        macs=kernel.macs / kernel.weights,
        mac_rate=rate,
        flight=loop.under_way,
        loaded=loop.loaded,
        turn=loop.instructions,
        splits=splits,
    )
    return Product(entry.kernel, blocks, threads // 32, resident, estimate(gpu, work, resident))


def gemm(
    case: BitsCase,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    gpu: Gpu,
) -> Product | None:
    """The product of a layer on bit tiles with many tokens (csrc/cuda/bits/gemm.cu).

    Every 64 columns read the weight anew, from DRAM where it is larger than L2. A turn of the loop is a field
    of 128 inputs, and a warp loads weights in one of the turns that use up a superblock: it waits for what of
    the latency the rest of this one does not cover. Columns and scales are taken to come in time.
    """
    if case.group_size == -1:
        flush = "scales by row" if case.precision == "fast" else "whole rows"
    else:
        flush = "scales by 128" if case.group_size % 128 == 0 else "scales by 32"
    entry = known.get((f"gemm::gemm_kernel<(Flush){FLUSHES.index(flush)}>", gpu.target))
    if entry is None or entry.worst is None:
        return None
    kernel, loop, digits = find(entry.kernel), entry.worst, len(case.digits)
    resident = occupancy(gpu, entry.registers, entry.shared, 32 * GEMM_WARPS)
    blocks = -(-out_features // GEMM_ROWS) * plan["passes"]
    read = plan["bytes"]["weight"] + plan["bytes"]["scales"]
    turn_ns = loop.instructions * DEPENDENT_CLOCKS / gpu.clock_ghz
    work = Work(
        blocks=blocks,
        weights=out_features * in_features * digits * plan["passes"],
        bytes=read,
        cached=read + blocks * digits * GEMM_COLUMNS * in_features,
        l1=loop.l1_per_weight,
        instructions=loop.per_weight,
        alu=loop.pipes.get("ALU", 0.0),
        macs=kernel.macs / kernel.weights,
        mac_rate=gpu.int8_macs,
        flight=loop.loaded,
        loaded=loop.loaded,
        turn=loop.instructions * 8 * digits / case.bits,
        from_dram=1.0 if read > plan["passes"] * gpu.l2_mb * 1e6 else 1 / plan["passes"],
        stall_ns=max(0.0, gpu.loaded_latency_ns - turn_ns * loop.under_way / loop.loaded),
    )
    return Product(entry.kernel, blocks, GEMM_WARPS, resident, estimate(gpu, work, resident))


def digits_read(case: BitsCase, entry: Entry) -> int:
    """How often the hot loop passes over the inputs: one-bit digits go four at a time."""
    return 1 if len(case.digits) <= 4 else 2


def memory_bound_until(
    planner: Planner, static: Sequence[Entry], case: Case, out_features: int, in_features: int, gpu: Gpu
) -> int | None:
    """The most tokens for which the GEMV is bound by DRAM; None: it never is."""
    known = {(entry.kernel, entry.target): entry for entry in static}
    most = None
    for tokens in range(1, MOST_TOKENS + 1):
        row = one(planner, known, case, out_features, in_features, tokens, gpu)
        if row is None or row.bound != "dram":
            break
        most = tokens
    return most


def against_dequantizing(
    planner: Planner, static: Sequence[Entry], tokens: int, gpu: Gpu, in_l2: bool = False
) -> dict[str, float]:
    """By vector codebook: how many times as long dequantising and a matmul take, at the worst shape."""
    known = {(entry.kernel, entry.target): entry for entry in static}
    found = {}
    for case in CODEBOOKS:
        if isinstance(case, VectorCase):
            ours = {shape: one(planner, known, case, *shape, tokens, gpu) for shape in SHAPES}
            found[case.title] = min(
                dequantized_us(case, *shape, tokens, gpu, in_l2) / row.call_us
                for shape, row in ours.items()
                if row is not None
            )
    return found


def ratios(planner: Planner, static: Sequence[Entry]) -> Ratios:
    found: Ratios = {}
    for tokens in RATIO_TOKENS:
        for gpu in GPUS:
            cold, warm = (
                against_dequantizing(planner, static, tokens, gpu, in_l2) for in_l2 in (False, True)
            )
            for case in cold:
                of_gpu = found.setdefault((case, tokens), {})
                of_gpu[gpu.name] = (round(cold[case], 3), round(warm[case], 3))
    return dict(sorted(found.items()))
