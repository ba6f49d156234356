"""Looking four bytes up at a time, and four packed bytes as neighbouring elements of a matrix."""

import triton
import triton.language as tl
from triton.language import core


@core.extern
def _prmt(low, high, selectors, _semantic=None):
    """LLVM's intrinsic for the PRMT instruction, which has a mode that CUDA's own function hides."""
    int32 = core.dtype("int32")
    symbol = {(int32, int32, int32): ("llvm.nvvm.prmt", int32)}
    return core.extern_elementwise("", "", [low, high, selectors], symbol, is_pure=True, _semantic=_semantic)


@triton.jit
def permute_bytes(low, high, selectors, PRMT: tl.constexpr):
    """Four of the eight bytes of low (0..3) and high (4..7), int32.

    Nibble i of the low half of `selectors` chooses byte i; with its highest bit set it yields the sign of the
    chosen byte, 0 or -1, eight times.

    Args:
        PRMT: as the one instruction that it is on NVIDIA GPUs; else in plain operations.
    """
    if PRMT:
        return _prmt(low, high, selectors)
    nibble = 4 * tl.arange(0, 4)[None, None, :]
    selector = selectors[:, :, None] >> nibble
    word = tl.where((selector & 4) != 0, high[:, :, None], low[:, :, None])
    byte = (word >> (8 * (selector & 3))) & 0xFF
    byte = tl.where((selector & 8) != 0, (byte >> 7) * 0xFF, byte)
    return tl.sum(byte << (2 * nibble), 2)


@triton.jit
def bytes_of(words):
    """int32 [rows, n] as int8 [rows, 4 n], the lowest byte first: nothing moves, as registers hold four."""
    even = tl.join(words.to(tl.int8), (words >> 16).to(tl.int8))
    odd = tl.join((words >> 8).to(tl.int8), (words >> 24).to(tl.int8))
    return tl.join(even, odd).reshape(words.shape[0], 4 * words.shape[1])
