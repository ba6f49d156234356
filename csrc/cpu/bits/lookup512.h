// Look-ups for one column with AVX-512, VBMI and VNNI: vpermb finds 64 sums in one instruction, where a
// masked byte product multiplies 64 single bits. Its 64 bytes of table serve the four byte positions of a
// dword, and a dword is cut into two nibbles per byte that need as little shifting as possible:
//
//   bits of a dword  31 30 | 29 .. 26 | 25 .. 22 | 21 .. 18 | 17 .. 14 | 13 .. 10 | 9 .. 6 | 5 .. 2 | 1 0
//
//   half 0, w itself             bits 2..5 of byte c: inputs 8 c + 2 .. 8 c + 5
//   half 1, w rotated by 4       bits 2..5 of byte c: inputs 8 c - 2 .. 8 c + 1 (of 32, cyclic)
//
//   index byte c       0 0 n3 n2 n1 n0 c1 c0                     n = the nibble
//   table byte 4 n + c a digit of  S = 512 + sum of the activation codes whose bit is set in n
//
// S has 10 bits and is kept as two digits of 5: S = low + 32 high. Eight look-ups, a run of 128 inputs, add
// up in unsigned bytes (8 * 31 < 256); a byte product by constants then adds the four bytes of a row.
#pragma once

#include <cstdint>

#include "cpu/bits/lookup_product.h"
#include "cpu/bits/patterns512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

struct Lookup512 {
  using Isa = isa::Avx512;
  using I32 = Isa::I32;

  static constexpr int kColumns = 1;
  static constexpr int kRows = kTileRows / Isa::kLanes;
  static constexpr int64_t kTableBytes = 256;  // two halves of two digits
  static constexpr int32_t kBias = 8 * 512;    // eight nibbles

  // codes: a block of Columns, [8 j][4 c].
  static LOWBIT_INLINE void build(const int8_t* codes, uint8_t* tables) {
    alignas(32) int32_t nibbles[2][4];  // [half][c]: the four codes of a nibble
    const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kOrder.bytes));
    _mm256_store_si256(reinterpret_cast<__m256i*>(nibbles), _mm256_permutexvar_epi8(order, block));
    const __m512i selected = _mm512_load_si512(kSelected.bytes);
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), digit = _mm512_set1_epi32(0x1f1f1f1f);
    for (int half = 0; half < 2; ++half, tables += 2 * kVectorBytes) {
      __m512i sum[4];
      for (int c = 0; c < 4; ++c) {
        sum[c] = _mm512_dpbusd_epi32(_mm512_set1_epi32(512), selected, _mm512_set1_epi32(nibbles[half][c]));
      }
      // Two sums side by side, in 16 bits each: bytes 0 and 2, bytes 1 and 3 of the table's dwords.
      const __m512i sum02 = _mm512_or_si512(sum[0], _mm512_slli_epi32(sum[2], 16));
      const __m512i sum13 = _mm512_or_si512(sum[1], _mm512_slli_epi32(sum[3], 16));
      const __m512i low = select(even, sum02, _mm512_slli_epi32(sum13, 8));
      const __m512i high = select(even, _mm512_srli_epi32(sum02, 5), _mm512_slli_epi32(sum13, 3));
      _mm512_store_si512(tables, _mm512_and_si512(low, digit));
      _mm512_store_si512(tables + kVectorBytes, _mm512_and_si512(high, digit));
    }
  }

  // total = before + 2 * sum over up to kSumBlocks blocks of S.
  template <int kTokens, int kPerToken, class Before, class End>
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                       int64_t blocks, const Before& before, const End& end) {
    static_assert(kTokens == 1 && kPerToken == 1);
    I32 low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_si512();
    for (int64_t block = 0; block < blocks; ++block) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        prefetch(bits + r * Isa::kLanes * 4 + ahead);
        const I32 w = Isa::load(bits + r * Isa::kLanes * 4);
        const I32 index[2] = {nibbles<0>(w), nibbles<1>(w)};
        const uint8_t* table = tables;
        LOWBIT_FORGET(table);  // operands of the look-ups: kept for all rows
                               // they would take registers
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half, table += 2 * kVectorBytes) {
          add_digit(low[r], index[half], table);
          add_digit(high[r], index[half], table + kVectorBytes);
        }
      }
      bits += kBlockBytes;
      tables += kTableBytes;
    }
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_KEEP(low[r]);
      LOWBIT_KEEP(high[r]);
    }
    I32 total[kRows][1];
    for (int r = 0; r < kRows; ++r) {
      const I32 sum = _mm512_dpbusd_epi32(before(r, 0), low[r], Isa::set1(0x02020202));
      total[r][0] = _mm512_dpbusd_epi32(sum, high[r], Isa::set1(0x40404040));
    }
    end(0, total);
  }

 private:
  static constexpr int64_t kVectorBytes = 64;

  template <int kHalf>
  static LOWBIT_INLINE __m512i nibbles(__m512i w) {
    const __m512i nibble = _mm512_set1_epi32(0x3c3c3c3c), byte = _mm512_set1_epi32(0x03020100);
    return _mm512_ternarylogic_epi32(kHalf == 0 ? w : _mm512_rol_epi32(w, 4), nibble, byte, 0xea);  // & |
  }

  static LOWBIT_INLINE void add_digit(I32& sum, I32 index, const uint8_t* table) {
    sum = _mm512_add_epi8(sum, _mm512_permutexvar_epi8(index, Isa::load(table)));
    LOWBIT_KEEP(sum);
  }

  static LOWBIT_INLINE __m512i select(__m512i mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
  }

  // Byte 16 half + 4 c + i: where a block of codes has input i of the nibble.
  static constexpr Bytes<32> order() {
    Bytes<32> result{};
    for (int half = 0; half < 2; ++half) {
      for (int c = 0; c < 4; ++c) {
        for (int i = 0; i < 4; ++i) {
          const int input = (8 * c + 2 + i - 4 * half + 32) % 32;
          result.bytes[16 * half + 4 * c + i] = static_cast<uint8_t>(4 * (input % 8) + input / 8);
        }
      }
    }
    return result;
  }
  static const Bytes<32> kOrder;
};

constexpr Bytes<32> Lookup512::kOrder = order();

}  // namespace
}  // namespace lowbit
