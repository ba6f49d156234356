"""The GPUs of the estimate: data sheet figures, and what had to be assumed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    name: str
    target: int  # whose code runs on it
    architecture: int  # its own, which the choice of kernel goes by
    multiprocessors: int
    clock_ghz: float  # boost
    dram_gbs: float
    l2_mb: float
    l2_gbs: float
    # Limits of a multiprocessor.
    max_warps: int
    max_blocks: int
    shared_kb: int
    # Multiply-adds a clock and multiprocessor, dense, for mma.sync.
    int8_macs: int
    b1_macs: int | None  # None: no such instruction, the kernels are never used
    f16_macs: int  # with sums in fp32
    f16_tflops: float  # of the vendor's matmul, dense, sums in fp32
    alu_lanes: int  # logic and integer adds
    # From the load to the data while DRAM is busy, nanoseconds.
    loaded_latency_ns: float


GPUS = (
    Gpu("A100", 80, 80, 108, 1.410, 2039, 40, 4500, 64, 32, 164, 2048, 16384, 1024, 312, 64, 650),
    Gpu("H100", 90, 90, 132, 1.830, 3350, 50, 5600, 64, 32, 228, 2048, 16384, 1024, 989, 64, 800),
    Gpu("H200", 90, 90, 132, 1.830, 4800, 50, 5600, 64, 32, 228, 2048, 16384, 1024, 989, 64, 900),
    Gpu("RTX 4090", 80, 89, 128, 2.520, 1008, 72, 5000, 48, 24, 100, 1024, 8192, 256, 165.2, 64, 500),
    Gpu("RTX 5090", 120, 120, 170, 2.407, 1792, 96, 7000, 48, 24, 100, 1024, None, 256, 209.5, 128, 600),
    Gpu("B200", 100, 100, 148, 1.850, 8000, 126, 10000, 64, 32, 228, 1024, None, 1024, 2250, 128, 1000),
)

# What holds for all of them.
ISSUE_PER_CLOCK = 4  # warp instructions a multiprocessor and clock
DEPENDENT_CLOCKS = 4  # from an instruction of a warp to its next, where that waits for it
REGISTERS = 65536  # 32-bit, of a multiprocessor
RESERVED_SHARED = 1024  # bytes that the system takes of each block's share
DRAM_EFFICIENCY = 0.92  # of the data sheet's bandwidth that a long stream of reads gets
START_NS = 700  # of a kernel: first block on, parameters read; its last block off
LAUNCH_NS = (
    1300  # between two kernels of a captured graph, from the last block's end to the first block's start
)
OVERLAPPED_LAUNCH_NS = 500  # the same with programmatic dependent launch
ARRIVAL_NS = 1000  # in which blocks that share rows write their sums, count, and the last one reads them
L2_BYTES_PER_CLOCK = 64  # that one multiprocessor reads
L1_BYTES_PER_CLOCK = 128  # of L1 and shared memory together


def overlaps(gpu: Gpu) -> bool:
    """Programmatic dependent launch: a kernel begins while the one before it runs, and waits inside."""
    return gpu.architecture >= 90


def gap_ns(gpu: Gpu) -> int:
    """Between two kernels of a captured graph that depend on each other."""
    return OVERLAPPED_LAUNCH_NS if overlaps(gpu) else LAUNCH_NS


ASSUMPTIONS = (
    ("multiprocessors, boost clock, DRAM bandwidth, L2", "NVIDIA's data sheets (SXM versions; A100 80 GB)"),
    (
        "warps, blocks, registers, shared memory of a multiprocessor",
        "CUDA C++ Programming Guide, technical specifications",
    ),
    (
        "int8 and fp16 multiply-adds, A100, RTX 4090, RTX 5090",
        "data sheets: dense tensor operations / 2 / multiprocessors / clock",
    ),
    (
        "int8 and fp16 multiply-adds, H100, H200",
        "half of the data sheet's, which only wgmma reaches; arXiv 2402.13499 measures 63 % for mma.sync",
    ),
    ("fp16 operations of the vendor's matmul", "data sheets: dense, sums in fp32, all of it"),
    ("int8 multiply-adds of mma.sync, B200", "assumed: half of an A100's; never measured by us"),
    (
        "b1 multiply-adds",
        "A100: data sheet, 8 x int8; RTX 4090, H100, H200: assumed to be 8 x int8 too, never measured by us",
    ),
    ("instructions issued: 4 a clock and multiprocessor", "CUDA C++ Programming Guide: four schedulers"),
    (
        "an instruction of a warp every 4 clocks, where it must be through with them before it waits again",
        "assumed: each depends on the one before; arXiv 2402.13499 measures 4 clocks and less",
    ),
    ("lanes for logic and integer adds", "CUDA C++ Programming Guide, arithmetic throughput"),
    (
        "latency of a load while DRAM is busy",
        "assumed: about twice to three times the idle latencies of arXiv 2402.13499 (466 to 542 cycles)",
    ),
    ("92 % of the DRAM bandwidth for long reads", "assumed; typical of published copy and read benchmarks"),
    (
        "0.7 us for a kernel to start and end; 1.3 us (0.5 us overlapped) between kernels of a graph",
        "assumed",
    ),
    (
        "1 us for blocks that share rows to write their sums, count, and for the last one to read them",
        "assumed: three trips to L2 under load",
    ),
    ("64 bytes a clock from L2 to one multiprocessor", "assumed"),
    (
        "128 bytes a clock of L1 and shared memory together; loads whose lanes meet in a bank count twice",
        "CUDA C++ Programming Guide: 32 banks of 4 bytes",
    ),
    (
        "bandwidth of L2",
        "assumed: of the size that published microbenchmarks give for A100, H100 and RTX 4090",
    ),
)
