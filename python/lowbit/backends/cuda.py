"""CUDA C++ kernels on NVIDIA GPUs, and the layouts they read.

signs and planes are cut into digits and laid out in tiles (csrc/cuda/bits/bits.h draws them), which the
operator `lowbit::cuda_repack_bits` makes and `cuda_restore_bits` undoes. As a tensor they are

    weight           uint8 [bits, digits, words, 16]    the first two sizes say how a code is cut
    scales, offsets  [16 ceil(N / 16), units]           a unit is the row, 128 inputs or 32 inputs

By default a code is cut into as few digits as there are (4 bits: one). Reading fewer bits than are stored
needs digits of one bit each, which cost more instructions.

Scalar and vector codebooks are uint8 [words, 16]; shared channels stay canonical, but that labels of inputs
are followed by the inputs in the order of their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowbit.backends import cuda_plan
from lowbit.backends.arguments import ARGUMENTS
from lowbit.backends.base import Availability, KernelChoice, Tensors, packed_format
from lowbit.formats import FORMATS
from lowbit.formats.base import Metadata, group_count
from lowbit.formats.codebook import CodebookScalar, CodebookVector, label_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST = (8, 0)  # compute capability
TILE_ROWS = 16
SUPERBLOCK_BYTES = 2048  # of 16 rows; 1024 inputs of one bit each
SPAN_INPUTS = 1024  # that the kernels take at a time: the units of whole spans exist
TAIL_BYTES = 3 * SUPERBLOCK_BYTES  # that the kernels may read behind the last one
WORD_BYTES = 16
LANES = 32  # that a tile of codes is made of words for
CODEBOOK_INPUTS = 256  # of a tile of scalar codes
TABLE_BITS = (2, 3, 4)  # of scalar codes that are looked up by byte permutations
ALIGNMENT = 256
STEP_POSITIONS, CHUNK_PAIRS = 4, 8  # of vector codes: see csrc/cuda/codebook/vector.h
_IDS_AT_A_TIME = 256  # of rows that are read out of tiles
KINDS_OF_BITS = ("signs", "planes")


def digit_widths(bits: int, digits: int) -> list[int]:
    """Widths of the digits, most significant first: `bits` times 1, or as few as there are."""
    return [1] * bits if digits == bits else [4] * (bits // 4) + [2] * (bits % 4 // 2) + [1] * (bits % 2)


def digit_bytes(out_features: int, in_features: int, width: int) -> int:
    """Bytes of the tiles of one digit."""
    inputs = 8 // width * 128
    return -(-out_features // TILE_ROWS) * -(-in_features // inputs) * SUPERBLOCK_BYTES


def tile_words(out_features: int, in_features: int, widths: Sequence[int]) -> int:
    """Third size of the tensor of tiles."""
    size = sum(digit_bytes(out_features, in_features, width) for width in widths) + TAIL_BYTES
    return -(-size // (WORD_BYTES * sum(widths) * len(widths)))


def repack_bits(planes: Tensor, in_features: int, one_bit_digits: bool = False) -> Tensor:
    """Canonical bits, uint8 [bits, N, ceil(K/8)] or [N, ceil(K/8)], to tiles [bits, digits, words, 16]."""
    planes = planes if planes.dim() == 3 else planes.unsqueeze(0)
    tiles: Tensor = _layouts().cuda_repack_bits(planes, in_features, one_bit_digits)
    return tiles


def restore_bits(tiles: Tensor, in_features: int, out_features: int) -> Tensor:
    """Tiles back to canonical bits [bits, N, ceil(K/8)]."""
    planes: Tensor = _layouts().cuda_restore_bits(tiles, in_features, out_features)
    return planes


def rows_of_bits(tiles: Tensor, in_features: int, out_features: int, ids: Tensor) -> Tensor:
    """Canonical bits [bits, n, ceil(K/8)] of some rows: only the tiles that hold them are read."""
    widths = digit_widths(tiles.shape[0], tiles.shape[1])
    flat = tiles.reshape(-1)

    def planes(ids: Tensor) -> Tensor:
        parts, begin = [], 0
        for width in widths:
            size = digit_bytes(out_features, in_features, width)
            parts.append(
                flat[begin : begin + size]
                .reshape(-(-out_features // TILE_ROWS), -1)[ids // TILE_ROWS]
                .reshape(-1)
            )
            begin += size
        rows = TILE_ROWS * ids.shape[0]
        some = torch.cat(parts)
        total = tile_words(rows, in_features, widths) * WORD_BYTES * sum(widths) * len(widths)
        some = pad(some, (0, total - some.shape[0])).reshape(sum(widths), len(widths), -1, WORD_BYTES)
        return restore_bits(some, in_features, rows)[:, _places(ids)]

    return _few_at_a_time(planes, ids)


def _few_at_a_time(restore: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """restore(ids) by slices, joined at dimension 1: for every id a whole tile is restored."""
    return torch.cat([restore(some) for some in ids.split(_IDS_AT_A_TIME)], dim=1)


def _places(ids: Tensor) -> Tensor:
    """Where the rows `ids` are among those of their tiles, one tile after the other."""
    return torch.arange(ids.shape[0], device=ids.device) * TILE_ROWS + ids % TILE_ROWS


def repack_groups(values: Tensor, in_features: int, group_size: int) -> Tensor:
    """Values per row and group, [N, G], to [16 ceil(N/16), units]; zeros for rows and units that pad."""
    if group_size != -1:
        unit = _unit(group_size)
        units = -(-in_features // unit)
        values = values.repeat_interleave(group_size // unit, dim=1)[:, :units]
        values = pad(values, (0, -units % (SPAN_INPUTS // unit)))
    return pad(values, (0, 0, 0, -values.shape[0] % TILE_ROWS)).contiguous()


def restore_groups(units: Tensor, in_features: int, group_size: int) -> Tensor:
    """[rows, units] back to [rows, G]."""
    step = 1 if group_size == -1 else group_size // _unit(group_size)
    return units[:, ::step][:, : group_count(in_features, group_size)].contiguous()


def _unit(group_size: int) -> int:
    return 128 if group_size % 128 == 0 else 32


def scalar_tile_words(in_features: int, bits: int) -> int:
    """Words of the codes of 16 rows."""
    return -(-in_features // CODEBOOK_INPUTS) * bits * LANES


def scalar_words(out_features: int, in_features: int, bits: int) -> int:
    """First size of the tensor: codes, and behind them two bytes of each entry and a float32 of each row."""
    tiles = -(-out_features // TILE_ROWS)
    words = tiles * scalar_tile_words(in_features, bits)
    if bits not in TABLE_BITS:
        return words
    rows = tiles * TILE_ROWS
    entries = -(-2 * rows * 2**bits // ALIGNMENT) * ALIGNMENT
    return words + (entries + 4 * rows) // WORD_BYTES


def vector_tile_words(in_features: int, books: int, size: int) -> int:
    """Words of the codes of 16 rows."""
    steps = -(-in_features // (size * STEP_POSITIONS))
    return -(-steps * books // CHUNK_PAIRS) * LANES


def vector_words(out_features: int, in_features: int, books: int, size: int) -> int:
    """First size of the tensor: codes, and behind them codebooks for matrix products, and their scale."""
    words = -(-out_features // TILE_ROWS) * vector_tile_words(in_features, books, size)
    return words + (books * 256 * size * 2 // WORD_BYTES + 1 if size in (4, 8) else 0)


def repack_scalar(planes: Tensor, tables: Tensor, in_features: int) -> Tensor:
    """Canonical code planes, uint8 [B, N, ceil(K/8)], with their tables, to uint8 [words, 16]."""
    packed: Tensor = _layouts().cuda_repack_scalar(planes, tables, in_features)
    return packed


def restore_scalar(packed: Tensor, tables: Tensor, in_features: int) -> Tensor:
    """Canonical code planes back."""
    planes: Tensor = _layouts().cuda_restore_scalar(packed, tables, in_features)
    return planes


def rows_of_scalar(packed: Tensor, tables: Tensor, in_features: int, ids: Tensor) -> Tensor:
    """Canonical code planes of some rows: only the tiles that hold them are read."""
    bits = tables.shape[1].bit_length() - 1

    def planes(ids: Tensor) -> Tensor:
        rows = TILE_ROWS * ids.shape[0]
        some = _tiles_of(packed, tables.shape[0], scalar_tile_words(in_features, bits), ids)
        # Behind the tiles lies what is made of the tables; it is not read.
        some = pad(some, (0, 0, 0, scalar_words(rows, in_features, bits) - some.shape[0]))
        return restore_scalar(some, tables.new_zeros(rows, tables.shape[1]), in_features)[:, _places(ids)]

    return _few_at_a_time(planes, ids)


def rows_of_vector(
    packed: Tensor, codebooks: Tensor, in_features: int, out_features: int, ids: Tensor
) -> Tensor:
    """Canonical codes of some rows: only the tiles that hold them are read."""
    words = vector_tile_words(in_features, codebooks.shape[0], codebooks.shape[2])
    behind = packed[-(-out_features // TILE_ROWS) * words :]  # codebooks, of all rows

    def codes(ids: Tensor) -> Tensor:
        some = torch.cat([_tiles_of(packed, out_features, words, ids), behind])
        return restore_vector(some, codebooks, in_features, TILE_ROWS * ids.shape[0])[:, _places(ids)]

    return _few_at_a_time(codes, ids)


def _tiles_of(packed: Tensor, out_features: int, words: int, ids: Tensor) -> Tensor:
    """uint8 [n words, 16]: the tiles of rows `ids`, `packed` beginning with tiles of so many words."""
    tiles = -(-out_features // TILE_ROWS)
    return packed[: tiles * words].reshape(tiles, words, WORD_BYTES)[ids // TILE_ROWS].flatten(0, 1)


def repack_vector(codes: Tensor, codebooks: Tensor, in_features: int) -> Tensor:
    """Canonical codes, uint8 [M, N, ceil(K/v)], to uint8 [words, 16]."""
    packed: Tensor = _layouts().cuda_repack_vector(codes, codebooks, in_features)
    return packed


def restore_vector(packed: Tensor, codebooks: Tensor, in_features: int, out_features: int) -> Tensor:
    """Canonical codes back."""
    codes: Tensor = _layouts().cuda_restore_vector(packed, codebooks, in_features, out_features)
    return codes


def order_labels(labels: Tensor, clusters: int) -> Tensor:
    """int32 [K + clusters + 1 + K]: the labels, where the inputs of each begin, the inputs by label."""
    wide = labels.to(torch.int64)
    begins = torch.zeros(clusters + 1, dtype=torch.int64, device=labels.device)
    begins[1:] = torch.bincount(wide, minlength=clusters).cumsum(0)
    return torch.cat([wide, begins, wide.argsort(stable=True)]).to(torch.int32)


def _layouts() -> Any:
    """Where the operators that lay out weights are."""
    return torch.ops.lowbit


class CudaBackend:
    """CUDA C++ through torch operators on the current stream; the kernel is chosen by shape and GPU."""

    name = "cuda"
    packs_digits = True

    def __init__(self) -> None:
        self._operators: dict[str, Callable[..., Tensor]] = {}

    def available(self) -> Availability:
        # Not at the top: the functional operators choose among backends, so their package imports this one.
        from lowbit.ops import _library

        failure = _library.load_cuda()
        if failure is not None:
            return Availability(False, failure)
        if not self._operators:
            self._operators = {kind: _library.operator(f"{kind}_linear") for kind in FORMATS}
        return Availability(True, "CUDA kernels")

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, *, forced: bool = False
    ) -> Availability:
        if device.type != "cuda":
            return Availability(False, f"runs on CUDA tensors, the layer is on {device}")
        if dtype not in DTYPES:
            return Availability(False, f"takes float32, float16 or bfloat16 activations, not {dtype}")
        answer = self.available()
        if not answer.ok:
            return answer
        capability = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}"
        if capability < OLDEST:
            return Availability(False, f"needs compute capability 8.0 or newer; {device} is {name}")
        return Availability(True, f"CUDA kernels, {name}")

    def prepare(self, tensors: Tensors, metadata: Metadata, any_bits: bool = False) -> Tensors:
        kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
        laid_out = dict(tensors)
        weight = tensors["weight"]
        if kind in KINDS_OF_BITS:
            laid_out["weight"] = repack_bits(weight, in_features, any_bits)
            for name in ("scales", "offsets"):
                if name in tensors:
                    laid_out[name] = repack_groups(tensors[name], in_features, int(metadata["group_size"]))
        elif kind == "codebook_scalar":
            laid_out["weight"] = repack_scalar(weight, tensors["tables"], in_features)
        elif kind == "codebook_vector":
            laid_out["weight"] = repack_vector(weight, tensors["codebooks"], in_features)
        elif int(metadata["axis"]) == 1:
            laid_out["labels"] = order_labels(tensors["labels"], int(metadata["clusters"]))
        return laid_out

    def restore(self, tensors: Tensors, metadata: Metadata) -> Tensors:
        kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
        rows = int(metadata["out_features"])
        canonical = dict(tensors)
        weight = tensors["weight"]
        if kind in KINDS_OF_BITS:
            planes = restore_bits(weight, in_features, rows)
            canonical["weight"] = planes if kind == "planes" else planes[0]
            for name in ("scales", "offsets"):
                if name in tensors:
                    units = tensors[name][:rows]
                    canonical[name] = restore_groups(units, in_features, int(metadata["group_size"]))
        elif kind == "codebook_scalar":
            canonical["weight"] = restore_scalar(weight, tensors["tables"], in_features)
        elif kind == "codebook_vector":
            canonical["weight"] = restore_vector(weight, tensors["codebooks"], in_features, rows)
        elif int(metadata["axis"]) == 1:
            canonical["labels"] = tensors["labels"][:in_features].to(label_dtype(int(metadata["clusters"])))
        return canonical

    def rows(self, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
        if ids.shape[0] == 0:  # the kernels that restore layouts take none
            return torch.empty(0, in_features, device=ids.device)
        if kind == "codebook_scalar":
            planes = rows_of_scalar(tensors["weight"], tensors["tables"], in_features, ids)
            return CodebookScalar(**tensors, in_features=in_features).expand_codes(planes, ids)
        if kind == "codebook_vector":
            codebooks, rows = tensors["codebooks"], int(metadata["out_features"])
            codes = rows_of_vector(tensors["weight"], codebooks, in_features, rows, ids)
            every = torch.arange(ids.shape[0], device=ids.device)
            return CodebookVector(codes, codebooks, tensors["out_scales"][ids], in_features)._expand(every)
        if kind not in KINDS_OF_BITS:
            return packed_format(self.restore(tensors, metadata), metadata)._expand(ids)
        bits = rows_of_bits(tensors["weight"], in_features, int(metadata["out_features"]), ids)
        some = dict(tensors) | {"weight": bits if kind == "planes" else bits[0]}
        for name in ("scales", "offsets"):
            if name in tensors:
                some[name] = restore_groups(tensors[name][ids], in_features, int(metadata["group_size"]))
        if "out_scales" in tensors:
            some["out_scales"] = tensors["out_scales"][:, ids]
        return packed_format(some, metadata)._expand(torch.arange(ids.shape[0], device=ids.device))

    def operator(self, kind: str) -> Callable[..., Tensor]:
        return self._operators[kind]

    def choose(self, kind: str, x: Tensor, arguments: Sequence[Any]) -> KernelChoice:
        named = ARGUMENTS[kind](x, *arguments)._asdict()
        weight = named["weight"]
        widths = digit_widths(*weight.shape[:2]) if kind in KINDS_OF_BITS else ()
        return cuda_plan.choose(kind, named, gpu_of(weight.device), tuple(widths))


def gpu_of(device: torch.device) -> cuda_plan.Gpu:
    """What the choice of a kernel depends on."""
    major, minor = torch.cuda.get_device_capability(device)
    return cuda_plan.Gpu(10 * major + minor, torch.cuda.get_device_properties(device).multi_processor_count)
