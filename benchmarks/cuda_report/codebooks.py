"""Estimates of codebook layers, and of dequantising vector codebooks for the vendor's matmul instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .estimate import Estimate, Work, estimate
from .gpus import DRAM_EFFICIENCY, L1_BYTES_PER_CLOCK, LAUNCH_NS, START_NS, Gpu, gap_ns, overlaps
from .kernels import find
from .occupancy import Occupancy, occupancy
from .plans import ChannelCase, ScalarCase, VectorCase
from .static import Entry

ENTRIES = 256  # of a codebook of vectors
TURN_ROWS = 32  # of a warp of the vector kernel, which reads all columns of its inputs for them
F16_BYTES = 2

# Of dense rows, thread instructions per weight. The kernels take dtypes and alignments as they come, so their
# code does not say what runs: this is counted in the source, for fp16 at aligned addresses.
DENSE_WEIGHT = 1.25  # a conversion, and an eighth of a load and its address
DENSE_TOKEN = {4: 1.6, 1: 1.4}  # by rows for a load of x: a product, a share of x's load, conversion, check
DENSE_OCTET = 8  # weights of a row that a lane takes at a time

Layer = ScalarCase | VectorCase | ChannelCase


@dataclass(frozen=True)
class Product:
    """The launches of a layer but for the prologue: the kernel of the longest, and all of their time."""

    kernel: str
    blocks: int
    warps: int
    resident: Occupancy
    found: Estimate
    prologue: bool = True


CODEBOOKS: tuple[Layer, ...] = (
    ScalarCase("scalar codebook, 2 bits, high", 2),
    ScalarCase("scalar codebook, 3 bits, high", 3),
    ScalarCase("scalar codebook, 3 bits, fast", 3, "fast"),
    ScalarCase("scalar codebook, 4 bits, high", 4),
    VectorCase("vector codebook, 1 x 8 inputs", 1, 8),
    VectorCase("vector codebook, 2 x 8 inputs", 2, 8),
    VectorCase("vector codebook, 4 x 8 inputs", 4, 8),
    VectorCase("vector codebook, 1 x 4 inputs", 1, 4),
    ChannelCase("shared outputs, 256 channels, rank 128", 256, 128),
    ChannelCase("shared inputs, 256 channels, rank 128", 256, 128, axis=1),
)


def product(
    case: Layer,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    gpu: Gpu,
) -> Product | None:
    """None where the plan is fp32, which is not estimated."""
    if isinstance(case, ScalarCase) and plan["kernel"] == "selectors":
        return _scalar(case, plan, known, out_features, in_features, gpu)
    if isinstance(case, VectorCase) and plan["kernel"] == "tensor":
        return _vector(case, plan, known, out_features, in_features, gpu)
    if isinstance(case, ChannelCase):
        return _channel(case, plan, known, out_features, in_features, gpu)
    return None


def _read(plan: dict[str, Any]) -> int:
    return int(plan["bytes"]["weight"] + plan["bytes"]["scales"])


def _scalar(
    case: ScalarCase,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    gpu: Gpu,
) -> Product | None:
    fast = case.precision == "fast"
    tiles = 1 if plan["columns"] <= 8 else 2 if fast else 4
    name = f"codebook::scalar_selectors::selectors_kernel<{case.bits}, {tiles}, {str(fast).lower()}>"
    entry = known.get((name, gpu.target))
    if entry is None or entry.worst is None:
        return None
    kernel, loop = find(name), entry.worst
    resident = occupancy(gpu, entry.registers, entry.shared + plan["shared_bytes"], 32 * plan["input_warps"])
    columns = min(plan["columns"], 8 * tiles)
    work = Work(
        blocks=plan["blocks"] * plan["passes"],
        weights=out_features * in_features * plan["passes"],
        bytes=_read(plan),
        cached=_read(plan) + plan["blocks"] * plan["passes"] * columns * in_features,
        l1=loop.l1_per_weight,
        instructions=loop.per_weight,
        alu=loop.pipes.get("ALU", 0.0),
        macs=kernel.macs / kernel.weights,
        mac_rate=gpu.int8_macs,
        flight=loop.under_way,
        loaded=loop.loaded,
        turn=loop.instructions,
    )
    return Product(name, work.blocks, plan["input_warps"], resident, estimate(gpu, work, resident))


def _vector(
    case: VectorCase,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    gpu: Gpu,
) -> Product | None:
    """A block fills shared memory with its copies of the codebooks first: a load, then so many clocks, which
    pass beside the prologue where launches overlap.

    Of the lanes that one pass of shared memory serves, most / copies may want the same banks.
    """
    name = f"codebook::vector_tensor::tensor_kernel<{case.size}>"
    entry = known.get((name, gpu.target))
    if entry is None or entry.worst is None:
        return None
    kernel, loop = find(name), entry.worst
    threads = 32 * plan["input_warps"] * plan["row_warps"]
    resident = occupancy(gpu, entry.registers, entry.shared + plan["shared_bytes"], threads)
    most = 128 // (F16_BYTES * case.size)
    entry_bytes = F16_BYTES * case.size * ENTRIES * case.books
    columns = min(plan["columns"], kernel.macs // int(kernel.weights))
    turns = -(-out_features // TURN_ROWS) * plan["passes"]
    work = Work(
        blocks=plan["blocks"] * plan["passes"],
        # An entry, F16_BYTES a weight, is looked up for each codebook.
        weights=out_features * in_features * case.books * plan["passes"],
        bytes=_read(plan),
        cached=_read(plan) + turns * columns * in_features * F16_BYTES,
        # Sixteen fp16 columns for 32 rows and one step of inputs, then every codebook's products with them.
        l1=loop.l1_per_weight + F16_BYTES * (most / plan["copies"] - 1) + 1 / case.books,
        instructions=loop.per_weight,
        alu=loop.pipes.get("ALU", 0.0),
        macs=kernel.macs / kernel.weights,
        mac_rate=gpu.f16_macs,
        flight=loop.under_way,
        loaded=loop.loaded,
        turn=loop.instructions,
        before_ns=0.0
        if overlaps(gpu)
        else gpu.loaded_latency_ns + entry_bytes * plan["copies"] / (L1_BYTES_PER_CLOCK * gpu.clock_ghz),
    )
    return Product(name, work.blocks, threads // 32, resident, estimate(gpu, work, resident))


def _channel(
    case: ChannelCase,
    plan: dict[str, Any],
    known: dict[tuple[str, int], Entry],
    out_features: int,
    in_features: int,
    gpu: Gpu,
) -> Product | None:
    """Two launches: parts of the shared channels and of the low rank, then all rows from them."""
    by_output = case.axis == 0
    tokens = min(plan["columns"], 8)

    def launch(name: str, weights: int, extra: int, blocks: int, rows: int, x_bytes: int) -> Product | None:
        entry = known.get((f"codebook::channel::{name}", gpu.target))
        if entry is None:
            return None
        resident = occupancy(gpu, entry.registers, entry.shared, 256)
        weights *= plan["passes"]
        read = F16_BYTES * weights + extra * plan["passes"]
        work = Work(
            blocks=blocks * plan["passes"],
            weights=weights,
            bytes=read,
            cached=read + weights / rows * tokens * x_bytes,
            l1=F16_BYTES + tokens * x_bytes / rows,
            instructions=DENSE_WEIGHT + DENSE_TOKEN[rows] * tokens,
            alu=DENSE_WEIGHT - 1,
            macs=0,
            mac_rate=None,
            flight=0.0,  # nothing is loaded ahead
            loaded=rows * 16 * 32,
            turn=(DENSE_WEIGHT + DENSE_TOKEN[rows] * tokens) * rows * DENSE_OCTET,
        )
        return Product(entry.kernel, work.blocks, 8, resident, estimate(gpu, work, resident), prologue=False)

    low_rank, labels = case.rank * in_features, plan["bytes"]["scales"] // plan["passes"]
    first = launch(
        "parts_kernel",
        low_rank + (case.clusters * in_features if by_output else 0),
        0 if by_output else labels + in_features * F16_BYTES,
        plan["blocks"],
        4,
        F16_BYTES,
    )
    second = launch(
        "gather_kernel" if by_output else "sums_kernel",
        out_features * (case.rank + (0 if by_output else case.clusters)),
        labels if by_output else 0,
        plan["second_blocks"],
        1 if by_output else 4,
        4,
    )
    if first is None or second is None:
        return None
    longest = max(first, second, key=lambda one: one.found.us)
    both = [one.found for one in (first, second)]
    us, read = sum(found.us for found in both), sum(found.gbs * found.us for found in both)
    streams = sum(found.gbs * found.us / found.stream for found in both)
    found = replace(
        longest.found, us=us, gbs=read / us, share=read / us / gpu.dram_gbs, stream=read / streams
    )
    return replace(longest, found=found)


def dequantized_us(
    case: VectorCase, out_features: int, in_features: int, tokens: int, gpu: Gpu, in_l2: bool = False
) -> float:
    """The other way for such a layer: a kernel that writes it in fp16, and the vendor's matmul, in a graph.

    Both are as good as they can be. The first reads the codes and writes 2 N K bytes, the second reads these
    again, and multiplies at all of the data sheet's fp16 rate if that takes longer. DRAM gives what it gives
    our kernels. With `in_l2` a fp16 weight that fits in L2 never leaves it: the best that such a layer could
    do alone, where nothing else needs that cache.
    """
    expanded = F16_BYTES * out_features * in_features
    codes = out_features * in_features * case.books // case.size
    rate = gpu.l2_gbs if in_l2 and expanded <= gpu.l2_mb * 1e6 else gpu.dram_gbs * DRAM_EFFICIENCY
    expand = codes / (gpu.dram_gbs * DRAM_EFFICIENCY) + expanded / rate
    return (LAUNCH_NS + START_NS + expand + gap_ns(gpu)) / 1e3 + matmul_us(
        out_features, in_features, tokens, gpu, rate
    )


def matmul_us(out_features: int, in_features: int, tokens: int, gpu: Gpu, rate: float) -> float:
    """The vendor's matmul alone, with a fp16 weight that comes at `rate` bytes a nanosecond, at its best."""
    expanded = F16_BYTES * out_features * in_features
    multiply = 2 * out_features * in_features * tokens / (gpu.f16_tflops * 1e3)
    return (START_NS + max(expanded / rate, multiply)) / 1e3
