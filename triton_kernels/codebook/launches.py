"""What of the family is compiled ahead of time: every form, for whole layers and for more than 16 tokens."""

from __future__ import annotations

from collections.abc import Iterator

from lowbit.backends.triton_codebook_layout import SUPERBLOCK_INPUTS, TABLE_BITS, head_lines

from ..compiled import Launch
from ..gpu import Gpu
from . import channel, dense, finish, scalar, staging, vector
from .scalar_floats import scalar_floats
from .scalar_selectors import scalar_selectors
from .vector_entries import vector_entries
from .vector_sums import gather_sums, partial_sums

_VECTORS = ((8, 1), (8, 2), (4, 2), (16, 4), (8, 8), (64, 1), (64, 2))  # inputs a code, codebooks


def launches(gpu: Gpu) -> list[Launch]:
    """Every kernel of the family as it is launched."""
    return [*_staging(), *_scalar(gpu.amd), *_channel(), *_vector(gpu)]


def _staging() -> Iterator[Launch]:
    integers = dict.fromkeys(("x_row_stride", "x_column_stride", "in_features", "padded"), "i32")
    for per_token in (1, 2):
        yield Launch(
            f"stage 16-bit floats, {per_token} a token",
            staging.halves,
            {"x": "*fp16" if per_token == 1 else "*fp32", "codes": "*fp16", "scales": "*fp32", **integers},
            {"PER_TOKEN": per_token, "BLOCK": staging.HALVES_BLOCK},
            {"num_warps": 4},
            divisible=("x_row_stride", "in_features", "padded"),
        )
    yield Launch(
        "finish, outliers",
        finish.finish_kernel,
        {
            "y": "*fp16",
            "parts": "*fp32",
            "bias": "*fp16",
            "outlier_offsets": "*i32",
            "outlier_columns": "*i32",
            "outlier_values": "*fp16",
            "values": "*fp32",
            **dict.fromkeys(("splits", "out_features", "padded"), "i32"),
        },
        {"BLOCK_ROWS": finish.BLOCK_ROWS},
        {"num_warps": 4},
        divisible=("out_features", "padded"),
    )


def _scalar(amd: bool) -> Iterator[Launch]:
    integers = dict.fromkeys(("out_features", "padded", "superblocks", "split_blocks"), "i32")
    for bits in range(1, TABLE_BITS + 1):
        for precision, per_token in (("fast", 1), ("high", 2)):
            for width, (rows, columns, warps) in scalar.selector_tiles(per_token == 1, amd).items():
                yield Launch(
                    f"scalar, {bits} bits, {precision}, {width}",
                    scalar_selectors,
                    {
                        "weight": "*i32",
                        "codes": "*i8",
                        "scales": "*fp32",
                        "parts": "*fp32",
                        "columns": "i32",
                        **integers,
                    },
                    {
                        "BITS": bits,
                        "HEAD": head_lines(bits),
                        "PER_TOKEN": per_token,
                        "PRMT": not amd,
                        "BLOCK_ROWS": rows,
                        "BLOCK_COLUMNS": columns,
                    },
                    {"num_warps": warps, "num_stages": 3},
                    weights=rows * SUPERBLOCK_INPUTS,
                    divisible=("out_features", "padded"),
                )
    rows, tokens, warps = scalar.FLOAT_TILES["narrow"]
    for bits in (3, 4, 8):
        yield Launch(
            f"scalar, {bits} bits, exact",
            scalar_floats,
            {
                "weight": "*i32",
                "tables": "*fp16",
                "values": "*fp32",
                "parts": "*fp32",
                "tokens": "i32",
                **integers,
            },
            {"BITS": bits, "HEAD": head_lines(bits), "BLOCK_ROWS": rows, "BLOCK_TOKENS": tokens},
            {"num_warps": warps, "num_stages": 1},
            weights=rows * SUPERBLOCK_INPUTS,
            divisible=("out_features", "padded"),
        )


def _channel() -> Iterator[Launch]:
    integers = dict.fromkeys(("columns", "out_features", "in_features", "stride", "split_steps"), "i32")
    for name, columns_type, tiles in (
        ("high", "*fp16", dense.HALVES_TILES),
        ("exact", "*fp32", dense.VALUES_TILES),
    ):
        for width, (rows, columns, warps) in tiles.items():
            halves = columns_type == "*fp16"
            yield Launch(
                f"channel, dense, {name}, {width}",
                dense.dense_kernel,
                {"weight": "*fp16", "codes": columns_type, "scales": "*fp32", "parts": "*fp32", **integers},
                {
                    **({} if halves else {"scales": None}),
                    "PER_TOKEN": 2 if halves else 1,
                    "WIDEN": False,
                    "BLOCK_ROWS": rows,
                    "BLOCK_COLUMNS": columns,
                    "BLOCK_INPUTS": dense.BLOCK_INPUTS,
                },
                {"num_warps": warps, "num_stages": 3},
                weights=rows * dense.BLOCK_INPUTS,
                divisible=("out_features", "in_features", "stride"),
            )
    yield Launch(
        "channel, sums by label",
        channel.sum_by_label,
        {
            **dict.fromkeys(("values", "labels", "sums"), "*fp32"),
            "labels": "*i32",
            **dict.fromkeys(("clusters", "in_features", "padded"), "i32"),
        },
        {"BLOCK_LABELS": channel.BLOCK_LABELS, "BLOCK_MEMBERS": channel.BLOCK_MEMBERS},
        {"num_warps": 4},
        divisible=("clusters", "in_features", "padded"),
    )
    yield Launch(
        "channel, gather",
        channel.gather_labels,
        {
            "y": "*fp16",
            "sums": "*fp32",
            "labels": "*u8",
            "low_rank_out": "*fp16",
            "low": "*fp32",
            "bias": "*fp16",
            **dict.fromkeys(("tokens", "out_features", "clusters", "rank"), "i32"),
        },
        {
            "BLOCK_ROWS": channel.GATHER_ROWS,
            "BLOCK_TOKENS": channel.GATHER_TOKENS,
            "BLOCK_RANK": channel.GATHER_RANK,
        },
        {"num_warps": 4},
        weights=channel.GATHER_ROWS * channel.GATHER_RANK,
        divisible=("out_features", "clusters", "rank"),
    )


def _vector(gpu: Gpu) -> Iterator[Launch]:
    integers = dict.fromkeys(("out_features", "positions", "steps", "split_steps"), "i32")
    for size, books in _VECTORS:
        block = vector.entry_inputs(size)
        for width, (rows, columns, warps) in vector.entry_tiles(books, size, gpu).items():
            yield Launch(
                f"vector, {books} x {size}, high, {width}",
                vector_entries,
                {
                    "weight": "*i32",
                    "codebooks": "*fp16",
                    "codes": "*fp16",
                    "scales": "*fp32",
                    "out_scales": "*fp16",
                    "parts": "*fp32",
                    "columns": "i32",
                    **integers,
                },
                {
                    "BOOKS": books,
                    "SIZE": size,
                    "PER_TOKEN": 2,
                    "WIDEN": False,
                    "BLOCK_ROWS": rows,
                    "BLOCK_COLUMNS": columns,
                    "BLOCK_INPUTS": block,
                },
                {"num_warps": warps, "num_stages": vector.entry_stages(books, size, gpu)},
                weights=rows * block,
                divisible=("out_features", "positions"),
            )
    yield Launch(
        "vector, 2 x 8, exact, products of entries",
        partial_sums,
        {
            "values": "*fp32",
            "codebooks": "*fp16",
            "sums": "*fp32",
            **dict.fromkeys(("padded", "in_features", "positions"), "i32"),
        },
        {"SIZE": 8, "BLOCK_POSITIONS": vector.SUM_POSITIONS},
        {"num_warps": vector.PRODUCT_WARPS},
        divisible=("padded", "in_features", "positions"),
    )
    rows, _, warps = vector.SUM_TILES["narrow"]
    yield Launch(
        "vector, 2 x 8, exact, sums by code",
        gather_sums,
        {"weight": "*u8", "sums": "*fp32", "out_scales": "*fp16", "parts": "*fp32", **integers},
        {"BOOKS": 2, "BLOCK_ROWS": rows, "BLOCK_POSITIONS": vector.SUM_POSITIONS},
        {"num_warps": warps},
        weights=rows * vector.SUM_POSITIONS * 8,
        divisible=("out_features", "positions"),
    )
