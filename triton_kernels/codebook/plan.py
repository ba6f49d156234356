"""Tiles, warps and splits of the products: pure functions of shape and GPU, so nothing is tuned at load.

What `lowbit tune` has measured on the GPU goes before them.

Splits do not depend on the number of tokens, and up to 16 tokens nor does anything else that the order of a
sum depends on: so long a row of y has the same bits whatever comes with it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..gpu import Gpu

GEMV_TOKENS = 16
PROGRAMS_PER_MULTIPROCESSOR = 2


class Plan(NamedTuple):
    """block_rows x block_columns sums a program, over split_steps of the steps of the inputs."""

    block_rows: int
    block_columns: int
    warps: int
    split_steps: int
    splits: int


def plan(
    name: str,
    out_features: int,
    steps: int,
    tokens: int,
    gpu: Gpu,
    most_steps: int,
    narrow: tuple[int, int, int],
    wide: tuple[int, int, int],
) -> Plan:
    """How to compute y [tokens, out_features] in `steps` steps.

    Args:
        name: of the kernel and of what its speed depends on besides.
        most_steps: of a split, so that its sums do not overflow.
        narrow, wide: rows, columns and warps of a program up to GEMV_TOKENS tokens, and above.
    """
    rows, columns, warps = narrow if tokens <= GEMV_TOKENS else wide
    tuned = gpu.tiles(f"{name}, {out_features} rows, {steps} steps") if tokens <= GEMV_TOKENS else None
    per_multiprocessor = PROGRAMS_PER_MULTIPROCESSOR if tuned is None else tuned.programs
    wanted = -(-per_multiprocessor * gpu.multiprocessors // -(-out_features // rows))
    splits = max(min(wanted, steps), -(-steps // most_steps))
    split_steps = -(-steps // splits)
    return Plan(rows, columns, warps, split_steps, -(-steps // split_steps))
