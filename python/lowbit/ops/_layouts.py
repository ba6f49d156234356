"""How bits of weights, and values per group, are held by the backends; a weight's shape tells whose it is.

canonical   [N, ceil(K/8)] or [planes, N, ceil(K/8)]
cpu         [tiles, planes, ceil(K/32), 64, 4]
cuda        [planes, digits, words, 16]
triton      [planes, digits, blocks, 128]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lowbit.backends import cpu, cuda, triton_layout


class Layout(Protocol):
    """Of one backend. Segments are fused layers, of sizes[i] rows."""

    def tile(self, planes: Tensor, in_features: int, any_bits: bool = False) -> Tensor:
        """Canonical bits to this layout; `any_bits`: so that any number of the first planes can be read."""
        ...

    def untile(self, tiles: Tensor, in_features: int, rows: int) -> Tensor:
        """Canonical bits [planes, N, ceil(K/8)]."""
        ...

    def tile_groups(self, values: Tensor, in_features: int, group_size: int) -> Tensor:
        """Canonical scales or offsets to this layout."""
        ...

    def untile_groups(self, values: Tensor, in_features: int, rows: int, group_size: int) -> Tensor:
        """Canonical scales or offsets [N, G]."""
        ...

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Bits of segments, one behind the other."""
        ...

    def segment(self, tiles: Tensor, in_features: int, sizes: Sequence[int], index: int) -> Tensor:
        """Bits of one segment."""
        ...

    def segment_groups(self, values: Tensor, sizes: Sequence[int], index: int) -> Tensor:
        """Scales or offsets of one segment."""
        ...


class CpuLayout:
    def tile(self, planes: Tensor, in_features: int, any_bits: bool = False) -> Tensor:
        return cpu.tile_bits(planes)

    def untile(self, tiles: Tensor, in_features: int, rows: int) -> Tensor:
        return cpu.untile_bits(tiles, in_features, rows)

    def tile_groups(self, values: Tensor, in_features: int, group_size: int) -> Tensor:
        return cpu.tile_scales(values)

    def untile_groups(self, values: Tensor, in_features: int, rows: int, group_size: int) -> Tensor:
        return cpu.untile_scales(values, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def segment(self, tiles: Tensor, in_features: int, sizes: Sequence[int], index: int) -> Tensor:
        return self.segment_groups(tiles, sizes, index)

    def segment_groups(self, values: Tensor, sizes: Sequence[int], index: int) -> Tensor:
        return values[_part([-(-size // cpu.TILE_ROWS) for size in sizes], index)]


class CudaLayout:
    def tile(self, planes: Tensor, in_features: int, any_bits: bool = False) -> Tensor:
        return cuda.repack_bits(planes, in_features, any_bits)

    def untile(self, tiles: Tensor, in_features: int, rows: int) -> Tensor:
        return cuda.restore_bits(tiles, in_features, rows)

    def tile_groups(self, values: Tensor, in_features: int, group_size: int) -> Tensor:
        return cuda.repack_groups(values, in_features, group_size)

    def untile_groups(self, values: Tensor, in_features: int, rows: int, group_size: int) -> Tensor:
        return cuda.restore_groups(values[:rows], in_features, group_size)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=2)

    def segment(self, tiles: Tensor, in_features: int, sizes: Sequence[int], index: int) -> Tensor:
        words = [cuda.tile_words(size, in_features, [1]) for size in sizes]
        return tiles[:, :, _part(words, index)].contiguous()

    def segment_groups(self, values: Tensor, sizes: Sequence[int], index: int) -> Tensor:
        return values[_part([-(-size // cuda.TILE_ROWS) * cuda.TILE_ROWS for size in sizes], index)]


class TritonLayout:
    def tile(self, planes: Tensor, in_features: int, any_bits: bool = False) -> Tensor:
        return triton_layout.lay_out_bits(planes, in_features, any_bits)

    def untile(self, tiles: Tensor, in_features: int, rows: int) -> Tensor:
        return triton_layout.restore_bits(tiles, in_features, rows)

    def tile_groups(self, values: Tensor, in_features: int, group_size: int) -> Tensor:
        return values

    def untile_groups(self, values: Tensor, in_features: int, rows: int, group_size: int) -> Tensor:
        return values

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=2)

    def segment(self, tiles: Tensor, in_features: int, sizes: Sequence[int], index: int) -> Tensor:
        blocks = triton_layout.row_blocks(in_features, (1,))
        return tiles[:, :, _part([size * blocks for size in sizes], index)]

    def segment_groups(self, values: Tensor, sizes: Sequence[int], index: int) -> Tensor:
        return values[_part(sizes, index)]


_LAYOUTS: dict[str, Layout] = {"cpu": CpuLayout(), "cuda": CudaLayout(), "triton": TritonLayout()}


def of(backend: str) -> Layout:
    """The layout of a backend that has one."""
    return _LAYOUTS[backend]


def of_weight(weight: Tensor) -> Layout | None:
    """The layout that `weight` is in; None: canonical."""
    if weight.dim() == 5:
        return _LAYOUTS["cpu"]
    if weight.dim() == 4:
        return _LAYOUTS["triton" if weight.shape[3] == triton_layout.BLOCK_BYTES else "cuda"]
    return None


def is_tiled(weight: Tensor) -> bool:
    """Whether bits are in a layout of kernels."""
    return weight.dim() in (4, 5)


def _part(sizes: Sequence[int], index: int) -> slice:
    begin = sum(sizes[:index])
    return slice(begin, begin + sizes[index])


def register(namespace: str = "lowbit") -> None:
    """Fakes of the operators that make the layouts of the CUDA kernels."""

    @torch.library.register_fake(f"{namespace}::cuda_repack_bits")
    def _repack_bits(planes: Tensor, in_features: int, one_bit_digits: bool) -> Tensor:
        bits, rows = planes.shape[:2]
        widths = cuda.digit_widths(bits, bits if one_bit_digits else 0)
        words = cuda.tile_words(rows, in_features, widths)
        return planes.new_empty(bits, len(widths), words, cuda.WORD_BYTES)

    @torch.library.register_fake(f"{namespace}::cuda_restore_bits")
    def _restore_bits(tiles: Tensor, in_features: int, out_features: int) -> Tensor:
        return tiles.new_empty(tiles.shape[0], out_features, (in_features + 7) // 8)

    @torch.library.register_fake(f"{namespace}::cuda_repack_scalar")
    def _repack_scalar(planes: Tensor, tables: Tensor, in_features: int) -> Tensor:
        words = cuda.scalar_words(planes.shape[1], in_features, planes.shape[0])
        return planes.new_empty(words, cuda.WORD_BYTES)

    @torch.library.register_fake(f"{namespace}::cuda_repack_vector")
    def _repack_vector(codes: Tensor, codebooks: Tensor, in_features: int) -> Tensor:
        words = cuda.vector_words(codes.shape[1], in_features, codebooks.shape[0], codebooks.shape[2])
        return codes.new_empty(words, cuda.WORD_BYTES)

    @torch.library.register_fake(f"{namespace}::cuda_restore_scalar")
    def _restore_scalar(packed: Tensor, tables: Tensor, in_features: int) -> Tensor:
        bits = tables.shape[1].bit_length() - 1
        return packed.new_empty(bits, tables.shape[0], (in_features + 7) // 8)

    @torch.library.register_fake(f"{namespace}::cuda_restore_vector")
    def _restore_vector(packed: Tensor, codebooks: Tensor, in_features: int, out_features: int) -> Tensor:
        return packed.new_empty(codebooks.shape[0], out_features, -(-in_features // codebooks.shape[2]))
