// Look-ups for several columns with AVX-512: whole sums of 16 bits, of five and six inputs at a time, where
// Lookup512 finds two digits of bytes for four. That takes tables of twice the size, which columns share
// their tiles' time for, and words that all have the same inputs. A row's dword is two words of 16 inputs,
// and a word has three fields:
//
//   bits of a word   15 .. 10 | 9 .. 5 | 4 .. 0
//
//   word             vpermw reads bits 0 to 4       one of 32 sums
//   word >> 5        vpermw reads bits 0 to 4       32
//   word >> 10       vpermt2w reads bits 0 to 5     64
//
// 32 rows are two row vectors a and b. Their low words become one vector, their high words another:
//
//   low    a0.low  b0.low  a1.low  b1.low  ...    b is loaded from two bytes before
//   high   a0.high b0.high a1.high b1.high ...    a is loaded from two bytes behind
//
// The sums of a run of 128 inputs fit into 16 bits: 128 * 128 < 2^15. A product of words by constants then
// takes those of a, or of b, out of a vector.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/bits/lookup_product.h"
#include "cpu/bits/patterns512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

struct WordLookup512 {
  using Isa = isa::Avx512;
  using I32 = Isa::I32;

  static constexpr int kColumns = 8;
  static constexpr int kRows = kTileRows / Isa::kLanes;
  static constexpr int64_t kTableBytes = 512;         // of two words, [32], [32] and [64] sums each
  static constexpr int64_t kStretchBytes = 16 << 10;  // half of the first cache
  static constexpr int32_t kBias = 0;

  // codes: a block of Columns, [8 j][4 c].
  static LOWBIT_INLINE void build(const int8_t* codes, uint8_t* tables) {
    alignas(32) int8_t x[kBlockInputs];  // in the order of the bits
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kOrder.bytes));
    const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    _mm256_store_si256(reinterpret_cast<__m256i*>(x), _mm256_permutexvar_epi8(order, block));
    const int8_t* first = x;
    LOWBIT_FORGET(first);  // broadcast by loads, which take no vector unit
    for (int word = 0; word < 2; ++word, first += 16, tables += 4 * kVectorBytes) {
      _mm512_store_si512(tables, sums_of_five(first));
      _mm512_store_si512(tables + kVectorBytes, sums_of_five(first + 5));
      const __m512i five = sums_of_five(first + 10);
      _mm512_store_si512(tables + 2 * kVectorBytes, five);
      _mm512_store_si512(tables + 3 * kVectorBytes, _mm512_add_epi16(five, _mm512_set1_epi16(first[15])));
    }
  }

  // total = before + 2 * sum over up to kSumBlocks blocks of the sums found.
  template <int kTokens, int kPerToken, class Before, class End>
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                       int64_t blocks, const Before& before, const End& end) {
    constexpr int kSums = kTokens * kPerToken;
    I32 sums[kSums][kPairs];
#pragma GCC unroll 8
    for (int c = 0; c < kSums; ++c) sums[c][0] = sums[c][1] = _mm512_setzero_si512();
    for (int64_t block = 0; block < blocks; ++block) {
      for (int r = 0; r < kRows; ++r) prefetch(bits + r * kVectorBytes + ahead);
      add_words<kSums>(low_words(bits), low_words(bits + 2 * kVectorBytes), tables, sums);
      add_words<kSums>(high_words(bits), high_words(bits + 2 * kVectorBytes), tables + 4 * kVectorBytes,
                       sums);
      bits += kBlockBytes;
      tables += kSums * kTableBytes;
    }
#pragma GCC unroll 8
    for (int c = 0; c < kSums; ++c) {
      LOWBIT_KEEP(sums[c][0]);
      LOWBIT_KEEP(sums[c][1]);
    }
    const I32 even = Isa::set1(2), odd = Isa::set1(2 << 16);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      I32 total[kRows][kPerToken];
      for (int i = 0; i < kPerToken; ++i) {
        const int c = t * kPerToken + i;
        for (int r = 0; r < kRows; ++r) {
          total[r][i] = _mm512_dpwssd_epi32(before(r, c), sums[c][r / 2], r % 2 == 0 ? even : odd);
        }
      }
      end(t, total);
    }
  }

 private:
  static constexpr int64_t kVectorBytes = 64;
  static constexpr int kPairs = kRows / 2;  // of row vectors

  static LOWBIT_INLINE __m512i low_words(const uint8_t* bits) {
    return _mm512_mask_loadu_epi16(Isa::load(bits), 0xaaaaaaaa, bits + kVectorBytes - 2);
  }
  static LOWBIT_INLINE __m512i high_words(const uint8_t* bits) {
    return _mm512_mask_loadu_epi16(Isa::load(bits + kVectorBytes), 0x55555555, bits + 2);
  }

  // Tables lie kTableBytes apart for each column.
  template <int kSums>
  static LOWBIT_INLINE void add_words(__m512i first, __m512i second, const uint8_t* table,
                                      I32 (&sums)[kSums][kPairs]) {
    const __m512i words[kPairs] = {first, second};
    __m512i middle[kPairs], last[kPairs];
    for (int p = 0; p < kPairs; ++p) {
      middle[p] = _mm512_srli_epi16(words[p], 5);
      last[p] = _mm512_srli_epi16(words[p], 10);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kSums; ++c, table += kTableBytes) {
      LOWBIT_FORGET(table);  // one address for all columns
      const __m512i low = load(table), mid = load(table + kVectorBytes),
                    high1 = load(table + 3 * kVectorBytes);
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) {
        add(sums[c][p], _mm512_permutexvar_epi16(words[p], low));
        add(sums[c][p], _mm512_permutexvar_epi16(middle[p], mid));
        add(sums[c][p], _mm512_permutex2var_epi16(Isa::load(table + 2 * kVectorBytes), last[p], high1));
      }
    }
  }

  // For all pairs: as operands, tables would be loaded for each, and one load a cycle binds.
  static LOWBIT_INLINE __m512i load(const uint8_t* table) {
    __m512i vector = Isa::load(table);
    LOWBIT_KEEP(vector);
    return vector;
  }

  static LOWBIT_INLINE void add(I32& sum, __m512i found) {
    sum = _mm512_add_epi16(sum, found);
    LOWBIT_KEEP(sum);
  }

  // Word n: the sum of those of five codes whose bit is set in n.
  static LOWBIT_INLINE __m512i sums_of_five(const int8_t* x) {
    const __m512i selected = _mm512_load_si512(kSelected.bytes);
    int32_t last_four, first_four;
    std::memcpy(&first_four, x, sizeof first_four);
    std::memcpy(&last_four, x + 1, sizeof last_four);
    // Dword n: without the first code, which is word 2 n, and with it.
    const __m512i without =
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), selected, _mm512_set1_epi32(last_four));
    const __m512i with = _mm512_dpbusd_epi32(without, _mm512_set1_epi32(1), _mm512_set1_epi32(first_four));
    return _mm512_mask_blend_epi16(0xaaaaaaaa, without, _mm512_slli_epi32(with, 16));
  }

  // Byte i of dword n: bit i of n.
  static constexpr Bytes<64> kSelected = selected_bits(0, 4);

  // Where a block of codes has input i.
  static constexpr Bytes<32> order() {
    Bytes<32> result{};
    for (int i = 0; i < 32; ++i) result.bytes[i] = static_cast<uint8_t>(4 * (i % 8) + i / 8);
    return result;
  }
  static const Bytes<32> kOrder;
};

constexpr Bytes<32> WordLookup512::kOrder = order();

}  // namespace
}  // namespace lowbit
