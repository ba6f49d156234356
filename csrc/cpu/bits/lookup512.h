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
    alignas(32) int32_t nibbles[8];
    const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kOrder.bytes));
    _mm256_store_si256(reinterpret_cast<__m256i*>(nibbles), _mm256_permutexvar_epi8(order, block));
    const int32_t* pairs = nibbles;
    LOWBIT_FORGET(pairs);  // broadcast by loads, which take no vector unit
    const __m512i first = _mm512_load_si512(kFirst.bytes), last = _mm512_load_si512(kLast.bytes);
    const __m512i digit = _mm512_set1_epi8(31), half_range = _mm512_set1_epi8(16);
    for (int half = 0; half < 2; ++half, pairs += 4, tables += 2 * kVectorBytes) {
      // Two sums side by side, in 16 bits each: bytes 0 and 2, bytes 1 and 3 of the table's dwords. Their 512
      // is added to the upper digit.
      __m512i sum[2];
      for (int c = 0; c < 2; ++c) {
        sum[c] = _mm512_add_epi16(_mm512_maddubs_epi16(first, _mm512_set1_epi32(pairs[2 * c])),
                                  _mm512_maddubs_epi16(last, _mm512_set1_epi32(pairs[2 * c + 1])));
      }
      const __m512i low = _mm512_mask_blend_epi8(kOdd, sum[0], _mm512_slli_epi16(sum[1], 8));
      const __m512i high =
          _mm512_mask_blend_epi8(kOdd, _mm512_srli_epi16(sum[0], 5), _mm512_slli_epi16(sum[1], 3));
      _mm512_store_si512(tables, _mm512_and_si512(low, digit));
      _mm512_store_si512(tables + kVectorBytes,
                         _mm512_ternarylogic_epi32(high, digit, half_range, 0x6a));  // & ^
    }
  }

  // total = before + 2 * sum over up to kSumBlocks blocks of S.
  template <int kTokens, int kPerToken, class Before, class End>
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                       int64_t blocks, const Before& before, const End& end) {
    static_assert(kTokens == 1 && kPerToken == 1);
    I32 low[kRows], high[kRows];
    if (blocks == kSumBlocks) [[likely]] {
      add_block<true>(bits, ahead, tables, low, high);
#pragma GCC unroll 3
      for (int block = 1; block < kSumBlocks; ++block) {
        add_block<false>(bits + block * kBlockBytes, ahead, tables + block * kTableBytes, low, high);
      }
    } else {
      for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_si512();
      for (int64_t block = 0; block < blocks; ++block) {
        add_block<false>(bits + block * kBlockBytes, ahead, tables + block * kTableBytes, low, high);
      }
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
  static constexpr __mmask64 kOdd = 0xaaaaaaaaaaaaaaaa;

  // `first`: there are no sums before.
  template <bool kFirst>
  static LOWBIT_INLINE void add_block(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                      I32 (&low)[kRows], I32 (&high)[kRows]) {
    prefetch_block(bits + ahead);
    I32 table[4];  // for all rows
    for (int i = 0; i < 4; ++i) table[i] = Isa::load(tables + i * kVectorBytes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const I32 w = Isa::load(bits + r * kVectorBytes);
      const I32 index[2] = {nibbles<0>(w), nibbles<1>(w)};
      add_digit<kFirst>(low[r], index[0], table[0]);
      add_digit<kFirst>(high[r], index[0], table[1]);
      add_digit<false>(low[r], index[1], table[2]);
      add_digit<false>(high[r], index[1], table[3]);
    }
  }

  // One piece of assembly: builtins are spread over the block's look-ups, which makes cold calls slower.
  static LOWBIT_INLINE void prefetch_block(const uint8_t* data) {
    static_assert(kBlockBytes == 4 * kVectorBytes);
    asm volatile(
        "prefetcht1 (%0)\n\tprefetcht1 64(%0)\n\tprefetcht1 128(%0)\n\tprefetcht1 192(%0)" ::"r"(data));
  }

  template <int kHalf>
  static LOWBIT_INLINE __m512i nibbles(__m512i w) {
    const __m512i nibble = _mm512_set1_epi32(0x3c3c3c3c), byte = _mm512_set1_epi32(0x03020100);
    return _mm512_ternarylogic_epi32(kHalf == 0 ? w : _mm512_rol_epi32(w, 4), nibble, byte, 0xea);  // & |
  }

  template <bool kFirst>
  static LOWBIT_INLINE void add_digit(I32& sum, I32 index, I32 table) {
    const I32 found = _mm512_permutexvar_epi8(index, table);
    sum = kFirst ? found : _mm512_add_epi8(sum, found);
    LOWBIT_KEEP(sum);
  }

  // Bytes 2 i and 2 i + 1 of dword n: bits 0 and 1, or 2 and 3, of n.
  static constexpr Bytes<64> kFirst = selected_bits(0, 2), kLast = selected_bits(2, 2);

  // Byte 16 half + 8 (c % 2) + 4 (i / 2) + 2 (c / 2) + i % 2: where a block of codes has input i of the
  // nibble.
  static constexpr Bytes<32> order() {
    Bytes<32> result{};
    for (int half = 0; half < 2; ++half) {
      for (int c = 0; c < 4; ++c) {
        for (int i = 0; i < 4; ++i) {
          const int input = (8 * c + 2 + i - 4 * half + 32) % 32;
          const int position = 16 * half + 8 * (c % 2) + 4 * (i / 2) + 2 * (c / 2) + i % 2;
          result.bytes[position] = static_cast<uint8_t>(4 * (input % 8) + input / 8);
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
