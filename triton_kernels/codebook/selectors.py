"""Codes of 1 to 4 bits as selectors of byte permutations, drawn in lowbit.backends.triton_codebook_layout."""

import triton
import triton.language as tl

_LINE = tl.constexpr(8)


@triton.jit
def selector_words(lines, WORD: tl.constexpr, BITS: tl.constexpr):
    """Selector words `WORD` of a superblock, int32 like `lines`, the addresses of its first line of words."""
    if BITS == 4:
        return tl.load(lines + WORD * _LINE)
    elif BITS == 3:
        if WORD < 3:
            return tl.load(lines + WORD * _LINE) & 0x77777777
        else:
            first = (tl.load(lines) >> 3) & 0x11111111
            second = (tl.load(lines + _LINE) >> 2) & 0x22222222
            return first | second | ((tl.load(lines + 2 * _LINE) >> 1) & 0x44444444)
    elif BITS == 2:
        return (tl.load(lines + (WORD // 2) * _LINE) >> (2 * (WORD % 2))) & 0x33333333
    else:
        return (tl.load(lines) >> WORD) & 0x11111111
