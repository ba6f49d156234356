"""How the Triton kernels of the family codebook hold their tensors, in plain torch.

scalar   int32 [N, 8 (head + B S)], S = ceil(K / 256) superblocks: per row a head of 8-word lines and B
         lines for each superblock. Word w of the lines holds codes of the inputs 4 w + i of every 32:

             selector word s = 0..3       nibble 7  6  5  4 | 3  2  1  0
             input in the superblock      64 s + 32 + 4 w + i | 64 s + 4 w + i     i = 3 2 1 0

         A nibble is the selector of a byte permutation, which looks four table entries up at a time, so each
         half of a selector word becomes four neighbouring bytes of a matrix operand. As stored:

             4 bits   line s: selector word s
             3 bits   line s = 0..2: selector word s; the bit s of every code of word 3 in the spare bits
             2 bits   line l = 0, 1: selector words 2 l and, two bits higher, 2 l + 1
             1 bit    line 0: selector word s in bit s of the nibbles
             5 to 8   four lines with the lowest 4 bits of all codes, B - 4 with the others

         The head (up to 4 bits) is the table in fixed point, entry ~ scale (255 t1 + t0), |entry - that| <=
         amax / 64512, as bytes: all t1, all t0 (one word of four entries with 1 bit), then scale as
         a float32.

channel  labels of inputs (axis 1) are followed by the inputs in the order of their labels, as for CUDA C++.
vector   uint8 [M, N, ceil(K / v)], padded with codes 0 so that blocks of positions are whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowbit.backends.base import Tensors, packed_format
from lowbit.backends.cuda import order_labels
from lowbit.backends.triton_layout import rows_at_a_time
from lowbit.formats.base import Metadata
from lowbit.formats.bits import pack_codes, unpack_codes
from lowbit.formats.codebook import CodebookScalar, label_dtype

SUPERBLOCK_INPUTS = 256
LINE_WORDS = 8
TABLE_BITS = 4  # up to here tables are looked up by byte permutations
DIGIT_BASE = 255
LARGEST_ENTRY = 126 * DIGIT_BASE + 126
_ONES = 0x11111111


def superblocks_of(in_features: int) -> int:
    """S: superblocks of a row."""
    return -(-in_features // SUPERBLOCK_INPUTS)


def head_lines(bits: int) -> int:
    """Lines of 8 words before the codes of a row."""
    return 0 if bits > TABLE_BITS else 2 if bits == TABLE_BITS else 1


def padded_positions(in_features: int, vector_size: int) -> int:
    """Codes of a row and codebook: whole 16-byte loads, and whole blocks of 128 inputs at least."""
    block = 16 * -(-8 // vector_size)
    return -(-in_features // (vector_size * block)) * block


def lay_out(tensors: Tensors, metadata: Metadata) -> Tensors:
    """Canonical tensors of a layer of the family to those that the kernels take, under the same names."""
    kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
    laid_out = dict(tensors)
    if kind == "codebook_scalar":
        laid_out["weight"] = lay_out_scalar(tensors["weight"], tensors["tables"], in_features)
    elif kind == "codebook_vector":
        laid_out["weight"] = lay_out_vector(tensors["weight"], in_features, tensors["codebooks"].shape[2])
    elif int(metadata["axis"]) == 1:
        laid_out["labels"] = order_labels(tensors["labels"], int(metadata["clusters"]))
    return laid_out


def restore(tensors: Tensors, metadata: Metadata) -> Tensors:
    """Undoes `lay_out`, bit by bit."""
    kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
    canonical = dict(tensors)
    if kind == "codebook_scalar":
        canonical["weight"] = restore_scalar(tensors["weight"], tensors["tables"].shape[1], in_features)
    elif kind == "codebook_vector":
        canonical["weight"] = restore_vector(tensors["weight"], in_features, tensors["codebooks"].shape[2])
    elif int(metadata["axis"]) == 1:
        canonical["labels"] = tensors["labels"][:in_features].to(label_dtype(int(metadata["clusters"])))
    return canonical


def rows(tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
    """Dequantised rows `ids` of the weight, float32 [n, in_features]; no others are restored."""
    kind, in_features = str(metadata["kind"]), int(metadata["in_features"])
    if kind == "codebook_scalar":
        codes = restore_scalar(tensors["weight"][ids], tensors["tables"].shape[1], in_features)
        return CodebookScalar(**tensors, in_features=in_features).expand_codes(codes, ids)
    if kind == "codebook_vector":
        some = {"weight": tensors["weight"][:, ids], "out_scales": tensors["out_scales"][ids]}
        every = torch.arange(len(ids), device=ids.device)
        return packed_format(restore({**tensors, **some}, metadata), metadata)._expand(every)
    return packed_format(restore(tensors, metadata), metadata)._expand(ids)


def lay_out_vector(codes: Tensor, in_features: int, vector_size: int) -> Tensor:
    """Canonical codes [M, N, ceil(K/v)] with padded rows."""
    return pad(codes, (0, padded_positions(in_features, vector_size) - codes.shape[2]))


def restore_vector(codes: Tensor, in_features: int, vector_size: int) -> Tensor:
    """Canonical codes [M, N, ceil(K/v)]."""
    return codes[:, :, : -(-in_features // vector_size)].contiguous()


def lay_out_scalar(planes: Tensor, tables: Tensor, in_features: int) -> Tensor:
    """Canonical planes, uint8 [B, N, ceil(K/8)], and tables [N, 2^B] to int32 [N, 8 (head + B S)]."""
    step = rows_at_a_time(in_features)
    some = zip(planes.split(step, dim=1), tables.split(step), strict=True)
    return torch.cat([_lay_out_rows(*own, in_features) for own in some])


def _lay_out_rows(planes: Tensor, tables: Tensor, in_features: int) -> Tensor:
    bits, out_features = planes.shape[:2]
    superblocks = superblocks_of(in_features)
    codes = unpack_codes(planes, in_features)
    codes = pad(codes, (0, superblocks * SUPERBLOCK_INPUTS - in_features)).to(torch.int64)
    #                                        s  half  w  i
    codes = codes.reshape(out_features, superblocks, 4, 2, LINE_WORDS, 4)
    fields = [_pack_field(codes & 15, min(bits, TABLE_BITS))]
    if bits > TABLE_BITS:
        fields.append(_pack_field(codes >> TABLE_BITS, bits - TABLE_BITS))
    lines = torch.cat(fields, dim=2).flatten(1)
    return lines if bits > TABLE_BITS else torch.cat([_head(tables, bits), lines], dim=1)


def restore_scalar(weight: Tensor, entries: int, in_features: int) -> Tensor:
    """The canonical planes back, uint8 [B, N, ceil(K/8)], of tables with `entries` = 2^B values."""
    bits = entries.bit_length() - 1
    some = weight.split(rows_at_a_time(in_features))
    return torch.cat([_restore_rows(own, bits, in_features) for own in some], dim=1)


def _restore_rows(weight: Tensor, bits: int, in_features: int) -> Tensor:
    lines = weight[:, LINE_WORDS * head_lines(bits) :].unflatten(1, (-1, bits, LINE_WORDS))
    low = min(bits, TABLE_BITS)
    codes = _unpack_field(lines[:, :, :low], low)
    if bits > TABLE_BITS:
        codes = codes | _unpack_field(lines[:, :, TABLE_BITS:], bits - TABLE_BITS) << TABLE_BITS
    return pack_codes(codes.flatten(1)[:, :in_features].to(torch.uint8), bits)


def _pack_field(codes: Tensor, bits: int) -> Tensor:
    """Codes of 1 to 4 bits, int64 [N, S, 4, 2, 8, 4], to lines of words, int32 [N, S, bits, 8]."""
    shifts = 16 * torch.arange(2)[:, None, None] + 4 * torch.arange(4)
    words = (codes << shifts.to(codes.device)).sum(dim=(3, 5))
    word = words.unbind(2)
    if bits == 3:
        lines = [word[s] | ((word[3] >> s) & _ONES) << 3 for s in range(3)]
    elif bits == 2:
        lines = [word[2 * line] | word[2 * line + 1] << 2 for line in range(2)]
    elif bits == 1:
        lines = [word[0] | word[1] << 1 | word[2] << 2 | word[3] << 3]
    else:
        lines = list(word)
    return _as_int32(torch.stack(lines, dim=2))


def _unpack_field(lines: Tensor, bits: int) -> Tensor:
    """Lines, int32 [N, S, bits, 8], to codes in the order of the inputs, int64 [N, S, 256]."""
    line = (lines.to(torch.int64) & 0xFFFFFFFF).unbind(2)
    mask = (2**bits - 1) * _ONES
    if bits == 3:
        spare = sum(((line[s] >> 3) & _ONES) << s for s in range(3))
        words = [*(line[s] & mask for s in range(3)), spare]
    else:
        per_line = 4 // bits
        words = [(line[s // per_line] >> (bits * (s % per_line))) & mask for s in range(4)]
    shifts = (16 * torch.arange(2)[:, None, None] + 4 * torch.arange(4)).to(lines.device)
    return ((torch.stack(words, dim=2)[:, :, :, None, :, None] >> shifts) & 15).flatten(2)


def _head(tables: Tensor, bits: int) -> Tensor:
    """Digits and scale of each row's table: int32 [N, 8 head_lines]."""
    values = tables.float()
    amax = values.abs().amax(dim=1, keepdim=True)
    inverse = torch.full_like(amax, LARGEST_ENTRY) / amax
    usable = inverse.isfinite()  # not with amax 0, nor where the inverse overflows
    scale = torch.where(usable, amax / torch.full_like(amax, LARGEST_ENTRY), 0.0)
    fixed = (values * torch.where(usable, inverse, 0.0)).round().to(torch.int64)
    # fixed = 255 t1 + t0 with t0 in -128 .. 126 and t1 in -126 .. 126.
    t1 = torch.div(fixed + 128, DIGIT_BASE, rounding_mode="floor")
    digits = torch.stack([t1, fixed - DIGIT_BASE * t1], dim=1)
    if bits == 1:
        digits = pad(digits, (0, 2))
    if bits == TABLE_BITS:
        digits = _corrected(digits)
    quads = (digits & 0xFF).unflatten(2, (-1, 4)) << (8 * torch.arange(4, device=tables.device))
    words = torch.cat([_as_int32(quads.sum(dim=3)).flatten(1), scale.view(torch.int32)], dim=1)
    return pad(words, (0, LINE_WORDS * head_lines(bits) - words.shape[1]))


def _corrected(digits: Tensor) -> Tensor:
    """Bytes of 16-entry tables such that the two halves add to the entry that is meant.

    A byte permutation has eight bytes to choose from. Each half is looked up with a selector whose highest
    bit is set where the other half is meant; it then yields that byte's sign, 0 or -1, instead of the byte.
    Entries that make the sums come out right again always exist while bytes are <= 126:

                              stored low     stored high    they add to
        low >= 0,  high >= 0   low            high           low + 0, high + 0
        low >= -1, high < 0    low + 1 >= 0   high           low + 1 - 1, high + 0
        low < 0,   high >= -1  low            high + 1 >= 0  low + 0, high + 1 - 1
        both < -1              low + 1 < 0    high + 1 < 0   low + 1 - 1, high + 1 - 1
    """
    low, high = digits[..., :8], digits[..., 8:]
    low_up = (high < 0) & ((low >= -1) | (high < -1))
    high_up = (low < 0) & ((high >= 0) | (low < -1))
    return torch.cat([low + low_up, high + high_up], dim=-1)


def _as_int32(words: Tensor) -> Tensor:
    """The low 32 bits of int64, of which torch's own cast is not sure to keep the sign."""
    return (((words & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)
