"""Native CPU kernels, and the bit tiles they read.

A tile is 64 output rows. The canonical bytes of a row are cut into little-endian dwords of 32 inputs; the
64 dwords of the same inputs lie side by side, so one vector load gives 32 inputs of 8 or 16 rows:

    canonical  weight [planes][N][ceil(K/8)]
    tiles      weight [T][planes][KB][64 rows][4 bytes]    T = ceil(N/64), KB = ceil(K/32)
    scales, offsets   [T][G][64 rows]                      from [N][G]

Planes of a tile are contiguous streams: reading fewer bits reads fewer bytes. Padding is 0 everywhere, so a
padded row has scale 0. This is a permutation of the canonical bytes: `untile_*` undoes it bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowbit.backends import huge_pages
from lowbit.backends.arguments import ARGUMENTS
from lowbit.backends.base import Availability, KernelChoice, Tensors, packed_format
from lowbit.formats import FORMATS, PRECISIONS
from lowbit.formats.base import Metadata

TILE_ROWS = 64
BLOCK_BYTES = 4  # one dword: 32 inputs of a row
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TILED_KINDS = ("signs", "planes")  # the codebook kernels read the canonical tensors as they are


def tile_bits(bits: Tensor) -> Tensor:
    """Canonical bits, uint8 [planes, N, ceil(K/8)] or [N, ceil(K/8)], to tiles [T, planes, KB, 64, 4]."""
    planes = bits if bits.dim() == 3 else bits.unsqueeze(0)
    rows, row_bytes = -planes.shape[1] % TILE_ROWS, -planes.shape[2] % BLOCK_BYTES
    padded = pad(planes, (0, row_bytes, 0, rows))
    count, height, width = padded.shape
    split = padded.reshape(count, height // TILE_ROWS, TILE_ROWS, width // BLOCK_BYTES, BLOCK_BYTES)
    return huge_pages.contiguous(split.permute(1, 0, 3, 2, 4))


def untile_bits(tiles: Tensor, in_features: int, out_features: int) -> Tensor:
    """Tiles [T, planes, KB, 64, 4] back to canonical bits [planes, N, ceil(K/8)]."""
    tile_count, planes, blocks, _, _ = tiles.shape
    rows = tiles.permute(1, 0, 3, 2, 4).reshape(planes, tile_count * TILE_ROWS, blocks * BLOCK_BYTES)
    return rows[:, :out_features, : (in_features + 7) // 8].contiguous()


def tile_scales(scales: Tensor) -> Tensor:
    """Values per row and group, [N, G], to [T, G, 64]."""
    padded = pad(scales, (0, 0, 0, -scales.shape[0] % TILE_ROWS))
    return huge_pages.contiguous(padded.reshape(-1, TILE_ROWS, scales.shape[1]).transpose(1, 2))


def untile_scales(tiled: Tensor, out_features: int) -> Tensor:
    """[T, G, 64] back to [N, G]."""
    return tiled.transpose(1, 2).reshape(-1, tiled.shape[1])[:out_features].contiguous()


def instruction_set() -> str:
    """Name of the instruction set the native kernels run with."""
    from lowbit import _native

    return str(_native.current_isa())


# The argument whose dtype is that of a layer's tables.
_TABLES = {"codebook_scalar": "tables", "codebook_vector": "codebooks", "codebook_channel": "weight"}


def _by_tiles(kind: str, dtype: torch.dtype, named: dict[str, Any]) -> str:
    """What of a layer amx computes in tile registers; the rest is left to avx512."""
    from lowbit import _native

    precision, bits = PRECISIONS[named["precision"]], named.get("activation_bits", 0)
    if kind in TILED_KINDS:
        if precision == "exact" and not bits:
            return "by avx512"
        # Columns are of bytes: a token of 16-bit or 8-bit activations is two.
        columns = 2 if bits == 8 or (not bits and precision == "high") else 1
        least = -(-_native.tile_columns(named.get("active_bits", 1)) // columns)
    else:
        x, tables = (str(found).removeprefix("torch.") for found in (dtype, named[_TABLES[kind]].dtype))
        least = _native.codebook_tile_tokens(kind, x, tables, precision, named.get("axis", 0))
    if least == 0:
        return "by avx512"
    if kind in ("codebook_channel", "codebook_vector"):
        return f"by avx512; {least} tokens or more in tiles of amx where rows are expanded"
    return f"by avx512 up to {least - 1} tokens, in tiles of amx from {least} on"


class CpuBackend:
    """C++ kernels through torch operators; the instruction set is chosen at run time."""

    name = "cpu"
    packs_digits = False

    def __init__(self) -> None:
        self._operators: dict[str, Callable[..., Tensor]] = {}

    def available(self) -> Availability:
        # Not at the top: the functional operators choose among backends, so their package imports this one.
        from lowbit.ops import _library

        failure = _library.load()
        if failure is not None:
            return Availability(False, failure)
        try:
            isa = instruction_set()
        except ImportError as error:
            return Availability(False, f"lowbit._native does not load: {error}")
        if not self._operators:
            self._operators = {
                kind: _library.operator(f"{kind}_linear")
                for kind in FORMATS
                if hasattr(torch.ops.lowbit, f"{kind}_linear")
            }
        return Availability(True, f"native kernels, {isa}")

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, *, forced: bool = False
    ) -> Availability:
        if device.type != "cpu":
            return Availability(False, f"runs on CPU tensors, the layer is on {device}")
        if dtype not in DTYPES:
            return Availability(False, f"takes float32, float16 or bfloat16 activations, not {dtype}")
        answer = self.available()
        if answer.ok and kind not in self._operators:
            return Availability(False, f"this build has no {kind} kernels")
        return answer

    def prepare(self, tensors: Tensors, metadata: Metadata, any_bits: bool = False) -> Tensors:
        if metadata["kind"] not in TILED_KINDS:
            return {name: huge_pages.contiguous(tensor) for name, tensor in tensors.items()}
        laid_out = dict(tensors) | {"weight": tile_bits(tensors["weight"])}
        for name in ("scales", "offsets"):
            if name in tensors:
                laid_out[name] = tile_scales(tensors[name])
        return laid_out

    def restore(self, tensors: Tensors, metadata: Metadata) -> Tensors:
        if metadata["kind"] not in TILED_KINDS:
            return dict(tensors)
        rows = int(metadata["out_features"])
        bits = untile_bits(tensors["weight"], int(metadata["in_features"]), rows)
        canonical = dict(tensors) | {"weight": bits if metadata["kind"] == "planes" else bits[0]}
        for name in ("scales", "offsets"):
            if name in tensors:
                canonical[name] = untile_scales(tensors[name], rows)
        return canonical

    def rows(self, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        if metadata["kind"] not in TILED_KINDS:
            return packed_format(tensors, metadata)._expand(ids)
        # Gather the bytes of these rows only, as a small layer in canonical form.
        tile, row = ids // TILE_ROWS, ids % TILE_ROWS
        bits = tensors["weight"][tile, :, :, row].flatten(2)[:, :, : (int(metadata["in_features"]) + 7) // 8]
        some = dict(tensors) | {
            "weight": bits.transpose(0, 1) if metadata["kind"] == "planes" else bits[:, 0]
        }
        for name in ("scales", "offsets"):
            if name in tensors:
                some[name] = tensors[name][tile, :, row]
        if "out_scales" in tensors:
            some["out_scales"] = tensors["out_scales"][:, ids]
        return packed_format(some, metadata)._expand(torch.arange(ids.shape[0], device=ids.device))

    def operator(self, kind: str) -> Callable[..., Tensor]:
        return self._operators[kind]

    def choose(self, kind: str, x: Tensor, arguments: Sequence[Any]) -> KernelChoice:
        kernel = f"{kind}_linear"
        if instruction_set() != "amx":
            return KernelChoice(kernel)
        return KernelChoice(kernel, _by_tiles(kind, x.dtype, ARGUMENTS[kind](x, *arguments)._asdict()))
