"""How long a product of the families signs and planes would take with given tiles. Estimates only.

The model is that of cuda_report/estimate.py, fed with the compiled Triton code (facts.py). Triton's own are

    stages    copies run ahead by stages - 1 turns. With two they are issued behind the products of a turn and
              waited for before those of the next, so that a program alone never computes while it loads; the
              compiled code shows that, and the model takes it from there
    scales    come to registers in the turn that uses them. 16 of a row lie in one sector: the first use of
              each waits for DRAM, the others for L1
    fill      a program's first stages - 1 turns come with the latency that fills the pipeline
    columns   more than one tile of columns reads the weights through L2 again
    splits    are added up by another kernel: a launch without overlap, one latency, and its bytes from L2

A call is the prologue, the product and that sum, in a captured graph.
"""

from __future__ import annotations

import math
from functools import cache

from cuda_report.cases import prologue_ns
from cuda_report.estimate import Work, estimate
from cuda_report.gpus import DEPENDENT_CLOCKS, LAUNCH_NS, START_NS, Gpu
from cuda_report.occupancy import occupancy
from cuda_report.plans import BitsCase
from lowbit.backends.triton_layout import BLOCK_BYTES, row_blocks
from lowbit.triton_kernels.bits.config import SPAN_INPUTS, Config, Product, row_tiles
from lowbit.triton_kernels.bits.variants import experts_of

from .facts import LANES, Facts, stall_clocks

SECTOR_BYTES = 32  # of what DRAM delivers
SCALE_BYTES = 2
L1_CLOCKS = 33
WGMMA_SPEED = 2  # of mma.sync's rate


@cache
def microseconds(product: Product, plan: Config, facts: Facts, tokens: int, gpu: Gpu) -> float:
    """Of a call; infinite where the GPU has not as much shared memory as a program needs."""
    resident = occupancy(gpu, facts.registers, facts.shared, 32 * plan.warps)
    if resident.blocks == 0:
        return math.inf
    kernel = estimate(gpu, work_of(product, plan, facts, tokens, gpu), resident).us * 1e3
    case = BitsCase("", product.widths, experts=experts_of(product))
    before = 2 * LAUNCH_NS + prologue_ns(gpu, case, product.in_features)
    return (before + kernel + sum_ns(product, plan, tokens, gpu)) / 1e3


def work_of(product: Product, plan: Config, facts: Facts, tokens: int, gpu: Gpu) -> Work:
    rows, columns = sum(product.segments), tokens * product.columns_per_token
    grouped = product.grouped
    tiles = -(-columns // plan.block_columns)
    programs = row_tiles(product.segments, plan.block_rows) * plan.splits * tiles
    per_turn = facts.weights // plan.block_rows  # inputs
    inputs = plan.split_spans * SPAN_INPUTS
    turns = -(-min(inputs, product.in_features) // per_turn)
    weights = programs * turns * facts.weights  # padded ones included
    scales = rows * -(-product.in_features // 128) * SCALE_BYTES if grouped else 0
    read = rows * row_blocks(product.in_features, product.widths) * BLOCK_BYTES + scales
    warp = LANES * plan.warps / facts.weights  # what one lane's turn is of the program's, per weight
    shared = tiles * read + programs * turns * per_turn * min(columns, plan.block_columns)
    return Work(
        blocks=programs,
        weights=weights,
        bytes=read,
        cached=shared + parts_bytes(product, plan, tokens),
        l1=facts.l1 * warp,
        instructions=facts.instructions * warp,
        alu=facts.alu * warp,
        macs=facts.macs * plan.warps / facts.weights,
        mac_rate=gpu.int8_macs * (WGMMA_SPEED if facts.warpgroup else 1),
        flight=facts.under_way / tiles,
        loaded=facts.loaded / tiles,
        turn=facts.instructions,
        stall_ns=stall_ns(facts, per_turn // 128 * SCALE_BYTES / SECTOR_BYTES if grouped else 0.0, gpu),
        first=min(1.0, (plan.stages - 1) / turns),
    )


def stall_ns(facts: Facts, missed: float, gpu: Gpu) -> float:
    """Of a turn: every wait is one for L1, and the first one, `missed` times a turn, for DRAM."""
    waits = [(int(load), int(use)) for load, use in (each.split("-") for each in facts.waits.split())]
    latency = gpu.loaded_latency_ns * gpu.clock_ghz
    far, near = (stall_clocks(waits[:1], clocks, DEPENDENT_CLOCKS) for clocks in (latency, L1_CLOCKS))
    all_near = stall_clocks(waits, L1_CLOCKS, DEPENDENT_CLOCKS)
    return (all_near + missed * (far - near)) / gpu.clock_ghz


def parts_bytes(product: Product, plan: Config, tokens: int) -> int:
    """That programs leave for the sum of splits."""
    if plan.splits == 1:
        return 0
    across = product.columns_per_token if product.form == "integers" else 1
    return 4 * plan.splits * sum(product.segments) * tokens * across


def sum_ns(product: Product, plan: Config, tokens: int, gpu: Gpu) -> float:
    """Of the kernel that adds up splits, with the launch before it."""
    if plan.splits == 1:
        return 0.0
    return LAUNCH_NS + START_NS + gpu.loaded_latency_ns + parts_bytes(product, plan, tokens) / gpu.l2_gbs
