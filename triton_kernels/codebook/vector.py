"""Vector codebooks: neighbouring inputs share a code per codebook."""

from __future__ import annotations

import torch
from lowbit.backends.arguments import VectorArguments
from torch import Tensor
from torch.library import wrap_triton

from ..bits.prologue import EXACT
from ..gpu import Gpu, gpu_of
from ..launch import launch
from .finish import finish, part_buffer
from .plan import plan
from .staging import stage_halves, stage_values
from .target import interpreted
from .vector_entries import vector_entries
from .vector_sums import gather_sums, partial_sums

ENTRIES = 256  # of a codebook
SUM_POSITIONS = 16  # a divisor of the padded positions
PRODUCT_WARPS = 8  # of the kernel that multiplies all entries; with four AMD spills scalar registers
SUM_TILES = {"narrow": (64, 1, 4), "wide": (64, 1, 4)}
MOST_SUMS = 1 << 24  # float32 values of partial sums that are held at a time


def vector_linear(a: VectorArguments) -> Tensor:
    """y [M, N] of x [M, K], the codes padded.

    16-bit codebooks with 1, 2, 4, ... inputs a code are operands of matrix products in `fast` and `high`; x
    is two 16-bit floats where one does not hold it. All else is in float32.
    """
    tokens, out_features = a.x.shape[0], a.out_scales.shape[0]
    y = torch.empty(tokens, out_features, dtype=a.x.dtype, device=a.x.device)
    if tokens == 0:
        return y
    size = a.codebooks.shape[2]
    if a.precision != EXACT.value and a.codebooks.dtype != torch.float32 and size & (size - 1) == 0:
        finish(y, _entries(a.x, a.weight, a.codebooks, a.out_scales), a.bias)
        return y
    values = stage_values(a.x).codes
    turn = max(1, MOST_SUMS // (a.weight.shape[0] * a.weight.shape[2] * ENTRIES))

    def compute(some: slice) -> None:
        finish(
            y[some],
            _sums(a.x[some], values[some], a.weight, a.codebooks, a.out_scales, a.in_features),
            a.bias,
        )

    if tokens <= turn:  # without a loop, which graphs would hold for this number of tokens
        compute(slice(None))
        return y
    for first in range(0, tokens, turn):
        compute(slice(first, first + turn))
    return y


def entry_inputs(vector_size: int) -> int:
    """Inputs that the entry form multiplies at a time: whole words of four codes."""
    return max(128, 4 * vector_size)


def entry_tiles(books: int, vector_size: int, gpu: Gpu) -> dict[str, tuple[int, int, int]]:
    """Tiles of the entry form; see `plan`."""
    rows = 128 if _staged(books, vector_size, 128, gpu) else 64
    # Four warps spill on sm_100 where a block is not staged.
    alone = gpu.capability[0] == 10 and entry_stages(books, vector_size, gpu) == 1
    columns = 64 if entry_inputs(vector_size) == 128 else 32  # more inputs leave no registers for more
    return {"narrow": (rows, 16, 2 if alone else 4), "wide": (rows, columns, 8)}


def entry_stages(books: int, vector_size: int, gpu: Gpu) -> int:
    """Blocks of entries of all codebooks that are on their way to shared memory, and used."""
    return 2 if _staged(books, vector_size, 64, gpu) else 1


def _staged(books: int, vector_size: int, rows: int, gpu: Gpu) -> bool:
    """Whether the shared memory of the smallest GPU holds a block of entries for so many rows.

    That is 99 KB, and 64 KB on AMD, with which the columns share it.
    """
    return 2 * books * rows * entry_inputs(vector_size) <= (32 << 10 if gpu.amd else 64 << 10)


def _entries(x: Tensor, weight: Tensor, codebooks: Tensor, out_scales: Tensor) -> Tensor:
    books, out_features, positions = weight.shape
    size = codebooks.shape[2]
    columns = stage_halves(x, codebooks.dtype, positions * size)
    block, count, gpu = entry_inputs(size), columns.codes.shape[0], gpu_of(x.device)
    steps = positions * size // block
    own = plan(
        f"entries {books} x {size}, {columns.per_token} a token",
        out_features,
        steps,
        x.shape[0],
        gpu,
        steps,
        **entry_tiles(books, size, gpu),
    )
    parts = part_buffer(x, own.splits, out_features)
    launch(
        wrap_triton(vector_entries),
        (-(-count // own.block_columns), -(-out_features // own.block_rows), own.splits),
        weight.view(torch.int32),
        codebooks,
        columns.codes,
        columns.scales,
        out_scales,
        parts,
        count,
        out_features,
        positions,
        steps,
        own.split_steps,
        BOOKS=books,
        SIZE=size,
        PER_TOKEN=columns.per_token,
        WIDEN=interpreted(),
        BLOCK_ROWS=own.block_rows,
        BLOCK_COLUMNS=own.block_columns,
        BLOCK_INPUTS=block,
        num_warps=own.warps,
        num_stages=entry_stages(books, size, gpu),
    )
    return parts


def _sums(
    x: Tensor, values: Tensor, weight: Tensor, codebooks: Tensor, out_scales: Tensor, in_features: int
) -> Tensor:
    books, out_features, positions = weight.shape
    tokens = x.shape[0]
    sums = torch.empty(tokens, books, positions, ENTRIES, dtype=torch.float32, device=x.device)
    launch(
        wrap_triton(partial_sums),
        (positions // SUM_POSITIONS, books, tokens),
        values,
        codebooks,
        sums,
        values.shape[1],
        in_features,
        positions,
        SIZE=codebooks.shape[2],
        BLOCK_POSITIONS=SUM_POSITIONS,
        num_warps=PRODUCT_WARPS,
    )
    steps = positions // SUM_POSITIONS
    own = plan(f"sums of {books}", out_features, steps, tokens, gpu_of(x.device), steps, **SUM_TILES)
    parts = part_buffer(x, own.splits, out_features)
    launch(
        wrap_triton(gather_sums),
        (tokens, -(-out_features // own.block_rows), own.splits),
        weight,
        sums,
        out_scales,
        parts,
        out_features,
        positions,
        steps,
        own.split_steps,
        BOOKS=books,
        BLOCK_ROWS=own.block_rows,
        BLOCK_POSITIONS=SUM_POSITIONS,
        num_warps=own.warps,
    )
    return parts
