// Look-ups with AVX2: vpshufb finds 32 sums in one instruction, where a byte product multiplies 32 single
// bits and takes a second one to add up.
//
// All bytes of a 128-bit half are looked up in the same 16 bytes, so 32 rows change their dwords for four
// vectors with the same byte of every row; the order of the rows is put right by the way back to 32 bits:
//
//   four vectors of 8 rows       bytes[c]: byte c of the rows   0 1 2 3  8 9 10 11  16 .. 19  24 .. 27   low
//   half
//                                                               4 5 6 7 12 13 14 15 20 .. 23  28 .. 31   high
//                                                               half
//
//   table byte n = a digit of  S = 512 + sum of the activation codes whose bit is set in the nibble n
//
// S has 10 bits and is kept as two digits of 5: S = low + 32 high. The eight look-ups of a block add up in
// unsigned bytes (8 * 31 < 256), twice the sums of four blocks in 16 bits (2 * 4 * 8 * 1020 < 65536).
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/bits/lookup_product.h"
#include "cpu/isa/avx2.h"

namespace lowbit {
namespace {

template <class Traits>
struct Lookup256 {
  using Isa = Traits;
  using I32 = typename Isa::I32;

  static constexpr int kColumns = 2;
  static constexpr int kRows = 4;
  static constexpr int64_t kTableBytes = 256;  // [4 c][2 nibbles][2 digits][16]
  static constexpr int64_t kStretchBytes = 64 << 10;
  static constexpr int32_t kBias = 8 * 512;  // eight nibbles

  // codes: a block of Columns, [8 j][4 c].
  static LOWBIT_INLINE void build(const int8_t* codes, uint8_t* tables) {
    alignas(32) int8_t nibbles[2][4][4];  // [nibble][c][i]: the codes 4 nibble + i of byte c
    const I32 order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    Isa::store(nibbles, _mm256_shuffle_epi8(Isa::load(codes), order));
    // Byte i of word n: bit i of n, and bit 2 + i.
    const I32 words = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const I32 one = _mm256_set1_epi16(0x0101);
    const auto pair = [&](I32 n) LOWBIT_LAMBDA_INLINE {
      return _mm256_and_si256(_mm256_or_si256(n, _mm256_slli_epi16(n, 7)), one);
    };
    const I32 low_bits = pair(words), high_bits = pair(_mm256_srli_epi16(words, 2));
    for (int c = 0; c < 4; ++c) {
      for (int nibble = 0; nibble < 2; ++nibble, tables += 2 * kDigitBytes) {
        const int8_t* const x = nibbles[nibble][c];
        I32 sum = _mm256_maddubs_epi16(low_bits, broadcast_pair(x));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(high_bits, broadcast_pair(x + 2)));
        sum = _mm256_add_epi16(sum, _mm256_set1_epi16(512));
        const I32 low = _mm256_and_si256(sum, _mm256_set1_epi16(31));
        const I32 digits = _mm256_packus_epi16(low, _mm256_srli_epi16(sum, 5));
        Isa::store(tables, _mm256_permute4x64_epi64(digits, 0xd8));  // 0 2 1 3
      }
    }
  }

  // total = before + 2 * sum over up to kSumBlocks blocks of S.
  template <int kTokens, int kPerToken, class Before, class End>
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                       int64_t blocks, const Before& before, const End& end) {
    constexpr int kSums = kTokens * kPerToken;
    const I32 zero = _mm256_setzero_si256();
    I32 sums[kSums][2];  // 16 bits, of rows 0..15 and 16..31
    for (auto& sum : sums) sum[0] = sum[1] = zero;
    for (int64_t block = 0; block < blocks; ++block) {
      I32 bytes[4];
      split(bits, ahead, bytes);
      add_block(bytes, tables, sums);
      bits += kBlockBytes;
      tables += kSums * kTableBytes;
    }
    for (int t = 0; t < kTokens; ++t) {
      I32 total[kRows][kPerToken];
      for (int column = 0; column < kPerToken; ++column) {
        const int c = t * kPerToken + column;
        for (int i = 0; i < 2; ++i) {
          total[2 * i][column] = Isa::add(before(2 * i, c), _mm256_unpacklo_epi16(sums[c][i], zero));
          total[2 * i + 1][column] = Isa::add(before(2 * i + 1, c), _mm256_unpackhi_epi16(sums[c][i], zero));
        }
      }
      end(t, total);
    }
  }

 private:
  static constexpr int64_t kDigitBytes = 16;

  static LOWBIT_INLINE I32 broadcast_pair(const int8_t* x) {
    int16_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return _mm256_set1_epi16(pair);
  }

  // bytes[c]: byte c of 32 rows.
  static LOWBIT_INLINE void split(const uint8_t* bits, int64_t ahead, I32 (&bytes)[4]) {
    const I32 order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    I32 w[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i % 2 == 0) prefetch(bits + i * sizeof(I32) + ahead);
      w[i] = _mm256_shuffle_epi8(Isa::load(bits + i * sizeof(I32)), order);
    }
    const I32 low01 = _mm256_unpacklo_epi32(w[0], w[1]), high01 = _mm256_unpackhi_epi32(w[0], w[1]);
    const I32 low23 = _mm256_unpacklo_epi32(w[2], w[3]), high23 = _mm256_unpackhi_epi32(w[2], w[3]);
    bytes[0] = _mm256_unpacklo_epi64(low01, low23);
    bytes[1] = _mm256_unpackhi_epi64(low01, low23);
    bytes[2] = _mm256_unpacklo_epi64(high01, high23);
    bytes[3] = _mm256_unpackhi_epi64(high01, high23);
  }

  template <int kSums>
  static LOWBIT_INLINE void add_block(const I32 (&bytes)[4], const uint8_t* tables, I32 (&sums)[kSums][2]) {
    const I32 nibble = _mm256_set1_epi8(15);
    I32 low[kSums], high[kSums];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const I32 index[2] = {_mm256_and_si256(bytes[c], nibble),
                            _mm256_and_si256(_mm256_srli_epi16(bytes[c], 4), nibble)};
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n) {
#pragma GCC unroll 4
        for (int column = 0; column < kSums; ++column) {
          const uint8_t* const table = tables + column * kTableBytes + (2 * c + n) * 2 * kDigitBytes;
          add_digit(low[column], index[n], table, c + n == 0);
          add_digit(high[column], index[n], table + kDigitBytes, c + n == 0);
        }
      }
    }
    const I32 twice = _mm256_set1_epi16(2 + (64 << 8));  // the digits' weights, doubled
#pragma GCC unroll 4
    for (int column = 0; column < kSums; ++column) {
      I32* const sum = sums[column];
      sum[0] = _mm256_add_epi16(sum[0],
                                _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low[column], high[column]), twice));
      sum[1] = _mm256_add_epi16(sum[1],
                                _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low[column], high[column]), twice));
    }
  }

  static LOWBIT_INLINE void add_digit(I32& sum, I32 index, const uint8_t* table, bool first) {
    const I32 entries = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    const I32 found = _mm256_shuffle_epi8(entries, index);
    sum = first ? found : _mm256_add_epi8(sum, found);
    LOWBIT_KEEP(sum);
  }
};

}  // namespace
}  // namespace lowbit
