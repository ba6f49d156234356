// Scalar codebooks on the device: how codes and tables lie in memory, and how codes become look-ups.
//
// A look-up is a PRMT: four selectors of 4 bits in the low half of a register pick four of eight bytes. So
// codes of 2 to 4 bits are stored such that a few logic operations turn a loaded word into selectors, and a
// table entry becomes two signed bytes t1, t0 in fixed point,
//
//     entry ~ row_scale * (255 t1 + t0)      row_scale = amax / 32256, |entry - that| <= amax / 64512
//
// which are the A operands of two s8 x s8 products with the same columns of activations.
//
// TILES  uint4 [ceil(N / 16)][ceil(K / 256)][bits][32 lanes]. Lane l, with g = l >> 2 and t = l & 3, holds
// 128 codes of a superblock of 16 rows x 256 inputs; code (h, q, r, i), h in 0..1, q, r, i in 0..3, is
//
//     row    16 tile + g + 8 (r & 1)
//     input  256 superblock + 128 h + 32 q + 8 t + 4 (r >> 1) + i
//
// the A operand (register r, byte i) of step q of group h for columns as cuda/activations/columns.h permutes
// them. Four codes (i = 0..3) make a quarter, 4 bits each; the quarters r = 2 p (low) and 2 p + 1 (high half)
// make the nibble word j = 8 h + 2 q + p, of 16. What is stored:
//
//     4 bits   load b, component c:  nibble word 4 b + c
//
//     3 bits   load e, component c:  nibble word 4 c + e, and in the bits that its nibbles leave free the bit
//     e of
//              the codes of word 4 c + 3, which is stored nowhere else
//
//                    bit   31       27       ...      3
//              load 0      d bbb    d bbb             d bbb      b: code of word 4 c,      d: bit 0 \  of the
//              load 1      d bbb    d bbb             d bbb      b: code of word 4 c + 1,  d: bit 1  > codes
//              of load 2      d bbb    d bbb             d bbb      b: code of word 4 c + 2,  d: bit 2 /  4 c
//              + 3
//
//     2 bits   load b, component c:  nibble words 8 b + 2 c (low two bits of the nibbles) and + 1 (high two
//     bits)
//
//     1, 5..8  load b: bit bits - 1 - b of all codes; of code (h, q, r, i) at bit 16 (q & 1) + 4 r + i of
//     component
//              2 h + (q >> 1). Only the fp32 form reads these.
//
// DIGITS (2 to 4 bits)  int8 [16 ceil(N / 16)][2][2^bits]: t1 of all entries of a row, then t0.
#pragma once

#include "cuda/device.h"
#include "cuda/ptx/integer.h"

namespace lowbit::cuda::codebook {

inline constexpr int kTileRows = 16;
inline constexpr int kSuperblock = 256;  // inputs
inline constexpr int kDigitBase = 255;
inline constexpr int kLargestEntry = 126 * kDigitBase + 126;  // 32256

LOWBIT_HOST_DEVICE constexpr bool has_selectors(int bits) {
  return 2 <= bits && bits <= 4;
}

// Warps of a block at most: 16 with 128 registers each, or, where that is a few too few, 4 with up to 168.
inline constexpr int kSelectorWarps4Bits = 4;
constexpr int most_selector_warps(int bits, int column_tiles) {
  return bits == 4 && column_tiles == 4 ? kSelectorWarps4Bits : 16;
}
// Of a warp: 2^31 / (128 * 128), less one superblock for the bytes that exceed 127 in magnitude.
inline constexpr int64_t kMostSuperblocks = (int64_t{1} << 17) / kSuperblock - 1;

// The fp32 form.
inline constexpr int kFloatsWarps = 8;
inline constexpr int kFloatsTokens = 8;  // whose sums a block has in registers

LOWBIT_DEVICE uint32_t component(const uint4& v, int c) {
  return c == 0 ? v.x : c == 1 ? v.y : c == 2 ? v.z : v.w;
}

// Nibble words 4 part .. 4 part + 3 of a superblock, of 16: steps 2 (part & 1) and + 1 of group part >> 1.
// With 4 bits a nibble's highest bit is the code's; else it is 0.
template <int kBits>
LOWBIT_DEVICE void nibble_words(const uint4 (&loads)[kBits], int part, uint32_t (&words)[4]) {
  if constexpr (kBits == 4) {
#pragma unroll
    for (int j = 0; j < 4; ++j) words[j] = component(loads[part], j);
  } else if constexpr (kBits == 3) {
    constexpr uint32_t kSpare = 0x88888888u;
    const uint32_t a = component(loads[0], part), b = component(loads[1], part),
                   c = component(loads[2], part);
    words[0] = a & ~kSpare;
    words[1] = b & ~kSpare;
    words[2] = c & ~kSpare;
    uint32_t collected = (a & kSpare) >> 1;
    collected = ((b & kSpare) | collected) >> 1;
    words[3] = ((c & kSpare) | collected) >> 1;
  } else {
    static_assert(kBits == 2);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint32_t word = component(loads[part / 2], 2 * (part % 2) + j);
      words[2 * j] = word & 0x33333333u;
      words[2 * j + 1] = (word >> 2) & 0x33333333u;
    }
  }
}

// The part of a superblock after whose words load b is not needed any more.
template <int kBits>
LOWBIT_DEVICE constexpr int last_part(int b) {
  return kBits >= 3 ? 3 : 2 * b + 1;
}

// One by one, for what is not in a hurry:

inline constexpr int kLoadWords = 32 * 4;  // from one load of a lane to its next

// Four 4-bit codes of the low half to the four bytes.
LOWBIT_DEVICE uint32_t nibbles_to_bytes(uint32_t quarter) {
  const uint32_t pairs = (quarter | quarter << 8) & 0x00ff00ffu;
  return (pairs | pairs << 4) & 0x0f0f0f0fu;
}

// Nibble word j of a superblock of 2 to 4 bits; `words` is the lane's first load. The codes of rows g and g
// + 8.
LOWBIT_DEVICE void selector_codes(const uint32_t* words, int bits, int j, uint32_t (&codes)[2]) {
  const auto load = [&](int b, int c) { return words[b * kLoadWords + c]; };
  uint32_t word;
  if (bits == 4) {
    word = load(j / 4, j % 4);
  } else if (bits == 2) {
    word = load(j / 8, j / 2 % 4) >> (2 * (j % 2)) & 0x33333333u;
  } else if (j % 4 < 3) {
    word = load(j % 4, j / 4) & 0x77777777u;
  } else {
    word = 0;
    for (int e = 0; e < 3; ++e) word |= (load(e, j / 4) >> 3 & 0x11111111u) << e;
  }
  codes[0] = nibbles_to_bytes(word & 0xffffu);
  codes[1] = nibbles_to_bytes(word >> 16);
}

// The same where every bit has a load of its own.
LOWBIT_DEVICE void plane_codes(const uint32_t* words, int bits, int j, uint32_t (&codes)[2]) {
  codes[0] = codes[1] = 0;
  for (int b = 0; b < bits; ++b) {
    const uint32_t word = words[b * kLoadWords + j / 4] >> (8 * (j % 4));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      // Bit i of the quad goes to byte i: the four partial products do not touch.
      const uint32_t bytes = ((word >> (4 * row) & 15) * 0x00204081u) & 0x01010101u;
      codes[row] = codes[row] << 1 | bytes;
    }
  }
}

// The eight codes of nibble word j, of any number of bits: [0] has row g, [1] row g + 8, byte i input i of
// the quad 256 s + 32 (j / 2) + 8 t + 4 (j % 2).
LOWBIT_DEVICE void load_codes(const uint32_t* words, int bits, int j, uint32_t (&codes)[2]) {
  if (has_selectors(bits)) {
    selector_codes(words, bits, j, codes);
  } else {
    plane_codes(words, bits, j, codes);
  }
}

}  // namespace lowbit::cuda::codebook
