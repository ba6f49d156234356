"""Weights as the operators take them: canonical, in the tiles of the CPU kernels, or in those of the GPU
kernels.

The number of dimensions tells which: 5 for the CPU's tiles of bits, 4 for the GPU's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.backends import cpu, cuda

TILED_DIMENSIONS = (4, 5)


def is_tiled(weight: Tensor) -> bool:
    """Whether bits are in a layout of kernels."""
    return weight.dim() in TILED_DIMENSIONS


def tile(name: str, planes: Tensor, in_features: int, any_bits: bool = False) -> Tensor:
    """Canonical bits in the layout of backend `name`."""
    return cpu.tile_bits(planes) if name == "cpu" else cuda.repack_bits(planes, in_features, any_bits)


def tile_groups(name: str, values: Tensor, in_features: int, group_size: int) -> Tensor:
    """Canonical scales or offsets in the layout of backend `name`."""
    return cpu.tile_scales(values) if name == "cpu" else cuda.repack_groups(values, in_features, group_size)


def untile(tiles: Tensor, in_features: int, rows: int) -> Tensor:
    """Canonical bits [planes, N, ceil(K/8)]."""
    if tiles.dim() == 5:
        return cpu.untile_bits(tiles, in_features, rows)
    return cuda.restore_bits(tiles, in_features, rows)


def untile_groups(tiles: Tensor, values: Tensor, in_features: int, rows: int, group_size: int) -> Tensor:
    """Canonical scales or offsets that belong to `tiles`."""
    if tiles.dim() == 5:
        return cpu.untile_scales(values, rows)
    return cuda.restore_groups(values[:rows], in_features, group_size)


def segment(
    tiles: Tensor, scales: Tensor | None, in_features: int, sizes: list[int], index: int
) -> tuple[Tensor, Tensor | None]:
    """Tiles and scales of one of the segments of sizes[i] rows that they hold."""
    before, rows = sizes[:index], sizes[index]
    if tiles.dim() == 5:
        begin = sum(-(-size // cpu.TILE_ROWS) for size in before)
        part = slice(begin, begin + -(-rows // cpu.TILE_ROWS))
        return tiles[part], None if scales is None else scales[part]
    words = [cuda.tile_words(size, in_features, [1]) for size in sizes]
    first = sum(words[:index])
    begin = sum(-(-size // cuda.TILE_ROWS) * cuda.TILE_ROWS for size in before)
    own = tiles[:, :, first : first + words[index]].contiguous()
    return own, None if scales is None else scales[begin : begin + rows]


def join(name: str, parts: list[Tensor]) -> Tensor:
    """Tiles of segments, one behind the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=0 if name == "cpu" else 2)


def register(namespace: str = "lowbit") -> None:
    """Fakes of the operators that make the layouts of the GPU kernels."""

    @torch.library.register_fake(f"{namespace}::cuda_repack_bits")
    def _repack_bits(planes: Tensor, in_features: int, one_bit_digits: bool) -> Tensor:
        bits, rows = planes.shape[:2]
        widths = cuda.digit_widths(bits, bits if one_bit_digits else 0)
        words = cuda.tile_words(rows, in_features, widths)
        return planes.new_empty(bits, len(widths), words, cuda.WORD_BYTES)

    @torch.library.register_fake(f"{namespace}::cuda_restore_bits")
    def _restore_bits(tiles: Tensor, in_features: int, out_features: int) -> Tensor:
        return tiles.new_empty(tiles.shape[0], out_features, (in_features + 7) // 8)

    @torch.library.register_fake(f"{namespace}::cuda_restore_scalar")
    def _restore_scalar(packed: Tensor, tables: Tensor, in_features: int) -> Tensor:
        bits = tables.shape[1].bit_length() - 1
        return packed.new_empty(bits, tables.shape[0], (in_features + 7) // 8)

    @torch.library.register_fake(f"{namespace}::cuda_restore_vector")
    def _restore_vector(packed: Tensor, codebooks: Tensor, in_features: int, out_features: int) -> Tensor:
        return packed.new_empty(codebooks.shape[0], out_features, -(-in_features // codebooks.shape[2]))
