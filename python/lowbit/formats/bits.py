"""Bits in bytes: the one bit order of every packed tensor.

Along the input dimension, little-endian: input k is bit k % 8 of byte k // 8.

    input      0  1  2  3  4  5  6  7 | 8  9 10  -  -  -  -  -      K = 11
    bit        0  1  2  3  4  5  6  7 | 0  1  2  3  4  5  6  7
               '------- byte 0 ------' '------- byte 1 ------'      pad bits ("-") are 0

Codes of B bits are stored as B such bit matrices ("planes"), the most significant first:

    code 0b101 of input k  ->  plane 0 bit 1,  plane 1 bit 0,  plane 2 bit 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.errors import ValueRangeError

MAX_BITS = 8


def packed_width(in_features: int) -> int:
    """Bytes that hold `in_features` bits."""
    return (in_features + 7) // 8


def pack_bits(bits: Tensor) -> Tensor:
    """Pack booleans along the last dimension: bool [..., K] -> uint8 [..., ceil(K/8)]."""
    in_features = bits.shape[-1]
    padding = packed_width(in_features) * 8 - in_features
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, padding))
    packed = padded[..., 0::8].clone()
    for position in range(1, 8):
        packed |= padded[..., position::8] << position
    return packed


def unpack_bits(packed: Tensor, in_features: int) -> Tensor:
    """Inverse of :func:`pack_bits`: uint8 [..., ceil(K/8)] -> bool [..., K]."""
    positions = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(-1) >> positions) & 1
    return bits.flatten(-2)[..., :in_features].bool()


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Split codes 0 .. 2^bits - 1 into planes: integer [..., K] -> uint8 [bits, ..., ceil(K/8)]."""
    return torch.stack([pack_bits((codes >> shift) & 1 != 0) for shift in range(bits - 1, -1, -1)])


def unpack_codes(planes: Tensor, in_features: int) -> Tensor:
    """Inverse of :func:`pack_codes`: uint8 [B, ..., ceil(K/8)] -> uint8 codes [..., K]."""
    codes = unpack_bits(planes[0], in_features).to(torch.uint8)
    for plane in planes[1:]:
        codes = (codes << 1) | unpack_bits(plane, in_features).to(torch.uint8)
    return codes


def check_padding(packed: Tensor, in_features: int, *, layer: str | None = None) -> None:
    """Raise :class:`ValueRangeError` unless the bits behind the last input are all 0.

    A set pad bit would be a weight of an input that does not exist; a kernel may rely on 0.
    """
    used = in_features % 8
    if used == 0:
        return
    stray = packed[..., -1] >> used
    if bool(stray.any()):
        raise ValueRangeError(
            "pad bits of 'weight' are set",
            layer=layer,
            found=f"{int((stray != 0).sum())} rows with bits behind input {in_features - 1}",
            allowed="only 0 behind the last input",
        )
