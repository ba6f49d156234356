// Vector codebooks on AVX-512 with VBMI, precision `fast`: 64 look-ups of 256 entries in registers.
//
// The products of a position with the 256 vectors of a codebook, an entry, are rounded to three digits of 7
// bits: product = step (U - 2^20). 256 digits are four registers, and two vpermi2b and a choice look 64 rows
// up at once. Sums of digits are exact integers, so neither their order nor the number of threads matters.
// The digits of two entries are added as bytes (2 * 127 < 256), then even and odd bytes in 16 bits:
//
//   words += digits                      mod 2^16: even + 256 odd
//   odds  += digits >> 8                 odd
//   even   = words - (odds << 8)
//
// Codes are stored by rows and needed by positions: a block of 64 rows and 64 positions is transposed first.
// Byte 4 l + k of the result is row 16 k + l, so that the four kinds of bytes of a dword are runs of 16 rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/codebook/codebook.h"
#include "cpu/isa/avx512.h"

namespace lowbit::codebook {

template <class V>
struct VectorDigits {
  using I32 = typename V::I32;
  using F32 = typename V::F32;

  static constexpr int kDigits = VectorDigitSums::kDigits, kBits = VectorDigitSums::kBits;
  static constexpr int kCodes = 256;
  static constexpr int kEntryBytes = kDigits * kCodes;
  static constexpr int kHalves = 2;  // of 64 rows: they share the loads of an entry's digits
  static constexpr int kTileRows = 64 * kHalves;
  static constexpr int kTilePositions = 64;

  static void tables(const Codebooks& codebooks, const float* x, float inverse, int64_t begin, int64_t end,
                     uint8_t* tables) {
    switch (codebooks.vector_size) {
      case 2:
        return fill_tables<2>(codebooks, x, inverse, begin, end, tables);
      case 4:
        return fill_tables<4>(codebooks, x, inverse, begin, end, tables);
      case 8:
        return fill_tables<8>(codebooks, x, inverse, begin, end, tables);
      case 16:
        return fill_tables<16>(codebooks, x, inverse, begin, end, tables);
      default:
        return fill_tables<0>(codebooks, x, inverse, begin, end, tables);
    }
  }

  static void sums(const lowbit_codebook_vector& weight, const uint8_t* tables, int64_t first,
                   int64_t positions, const VectorDigitSums& sums, int64_t begin, int64_t end) {
    // One block of positions for all rows: its digits stay in the second level cache, and every cache line of
    // codes is read once.
    for (int64_t p = 0; p < positions; p += kTilePositions) {
      const int count = static_cast<int>(std::min<int64_t>(kTilePositions, positions - p));
      for (int64_t n = begin; n < end; n += kTileRows) {
        const int valid = static_cast<int>(std::min<int64_t>(kTileRows, end - n));
        for (int32_t c = 0; c < weight.num_codebooks; ++c) {
          tile(weight, tables + (p * weight.num_codebooks + c) * kEntryBytes, c, first + p, count, n, valid,
               sums);
        }
      }
    }
  }

 private:
  // kSize 0: any vector size.
  template <int kSize>
  static void fill_tables(const Codebooks& codebooks, const float* x, float inverse, int64_t begin,
                          int64_t end, uint8_t* tables) {
    const int32_t size = kSize > 0 ? kSize : codebooks.vector_size;
    const F32 to_steps = V::fset1(inverse);
    for (int64_t j = begin; j < end; ++j) {
      for (int32_t c = 0; c < codebooks.num_codebooks; ++c) {
        const float* const vectors = codebooks.data + static_cast<int64_t>(c) * size * kCodes;
        uint8_t* const entry = tables + (j * codebooks.num_codebooks + c) * kEntryBytes;
        for (int i = 0; i < kCodes; i += 64) {
          I32 codes[4];
          for (int part = 0; part < 4; ++part) {
            F32 sum = V::fset1(0.0f);
            for (int32_t d = 0; d < size; ++d) {
              sum = V::fma(V::fload(vectors + d * kCodes + i + 16 * part), V::fset1(x[j * size + d]), sum);
            }
            codes[part] = V::add(V::to_int(V::fmul(sum, to_steps)), V::set1(VectorDigitSums::kHalf));
          }
          store_digits(codes, entry + i);
        }
      }
    }
  }

  // Digits of 64 codes, as bytes, to out, out + kCodes, out + 2 kCodes.
  static LOWBIT_INLINE void store_digits(const I32* codes, uint8_t* out) {
    static_assert(kDigits == 3 && kBits == 7);
    // Bytes 0, 1, 2 of each dword: bits 0, 7 and 14 on. vpmultishiftqb works on pairs of dwords.
    const I32 fields = _mm512_set1_epi64(0x002e2720000e0700);
    I32 bytes[4];
    for (int part = 0; part < 4; ++part) {
      bytes[part] = V::bit_and(_mm512_multishift_epi64_epi8(fields, codes[part]), V::set1(0x7f7f7f7f));
    }
    // Of two vectors, 32 dwords: all bytes 0, then all bytes 1; and all bytes 2.
    alignas(64) static constexpr auto kFirst = every_fourth(0, 1), kThird = every_fourth(2, 2);
    const I32 first = V::load(kFirst.bytes), third = V::load(kThird.bytes);
    const I32 low01 = _mm512_permutex2var_epi8(bytes[0], first, bytes[1]);
    const I32 low23 = _mm512_permutex2var_epi8(bytes[2], first, bytes[3]);
    const I32 high01 = _mm512_permutex2var_epi8(bytes[0], third, bytes[1]);
    const I32 high23 = _mm512_permutex2var_epi8(bytes[2], third, bytes[3]);
    V::store(out, _mm512_shuffle_i32x4(low01, low23, 0x44));
    V::store(out + kCodes, _mm512_shuffle_i32x4(low01, low23, 0xee));
    V::store(out + 2 * kCodes, _mm512_shuffle_i32x4(high01, high23, 0x44));
  }

  struct Pattern {
    uint8_t bytes[64];
  };
  static constexpr Pattern every_fourth(int first_byte, int second_byte) {
    Pattern result{};
    for (int i = 0; i < 32; ++i) {
      result.bytes[i] = static_cast<uint8_t>(4 * i + first_byte);
      result.bytes[32 + i] = static_cast<uint8_t>(4 * i + second_byte);
    }
    return result;
  }

  // Columns of a 16 x 16 matrix of dwords become rows.
  static LOWBIT_INLINE void transpose16(I32* r) {
    I32 t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // r[i + k]: column 4 q + k of rows i .. i + 3 in quarter q
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int k = 0; k < 4; ++k) {
      const I32 low01 = _mm512_shuffle_i32x4(r[k], r[k + 4], 0x44);
      const I32 high01 = _mm512_shuffle_i32x4(r[k], r[k + 4], 0xee);
      const I32 low23 = _mm512_shuffle_i32x4(r[k + 8], r[k + 12], 0x44);
      const I32 high23 = _mm512_shuffle_i32x4(r[k + 8], r[k + 12], 0xee);
      t[k] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      t[k + 4] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
      t[k + 8] = _mm512_shuffle_i32x4(high01, high23, 0x88);
      t[k + 12] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
    std::copy(t, t + 16, r);
  }

  // codes[position][64 bytes], stride kTileRows, of 64 rows; rows from `valid` on repeat the last.
  static LOWBIT_INLINE void transpose_codes(const uint8_t* rows, int64_t row_bytes, int valid, int count,
                                            uint8_t* codes) {
    const auto loaded = static_cast<__mmask64>(~uint64_t{0} >> (64 - count));
    alignas(64) I32 groups[4][16];  // [16 rows][4 positions]: lane l is row 16 k + l
    for (int k = 0; k < 4; ++k) {
      for (int l = 0; l < 16; ++l) {
        groups[k][l] = _mm512_maskz_loadu_epi8(loaded, rows + std::min(16 * k + l, valid - 1) * row_bytes);
      }
      transpose16(groups[k]);
    }
    for (int q = 0; 4 * q < count; ++q) {
      I32 a = groups[0][q], b = groups[1][q], c = groups[2][q], d = groups[3][q];
      const I32 words = V::set1(0x0000ffff), bytes = V::set1(0x00ff00ff);
      V::template exchange<16>(words, a, c);
      V::template exchange<16>(words, b, d);
      V::template exchange<8>(bytes, a, b);
      V::template exchange<8>(bytes, c, d);
      V::store(codes + (4 * q) * kTileRows, a);
      V::store(codes + (4 * q + 1) * kTileRows, b);
      V::store(codes + (4 * q + 2) * kTileRows, c);
      V::store(codes + (4 * q + 3) * kTileRows, d);
    }
  }

  static LOWBIT_INLINE I32 look(const uint8_t* digits, I32 code, __mmask64 upper) {
    const I32 low = _mm512_permutex2var_epi8(V::load(digits), code, V::load(digits + 64));
    const I32 high = _mm512_permutex2var_epi8(V::load(digits + 128), code, V::load(digits + 192));
    return _mm512_mask_blend_epi8(upper, low, high);
  }

  // One codebook: `count` positions of `valid` rows from n on.
  static void tile(const lowbit_codebook_vector& weight, const uint8_t* entries, int32_t codebook,
                   int64_t first, int count, int64_t n, int valid, const VectorDigitSums& sums) {
    const int64_t row_bytes = (weight.in_features + weight.vector_size - 1) / weight.vector_size;
    const uint8_t* const rows = weight.codes + (codebook * weight.out_features + n) * row_bytes + first;
    alignas(64) uint8_t codes[kTilePositions][kTileRows];
    for (int h = 0; h < kHalves; ++h) {
      // A second half without rows looks the first half's last row up: no branch in the loop below.
      const int64_t start = std::min(64 * h, valid - 1);
      transpose_codes(rows + start * row_bytes, row_bytes, std::max(valid - 64 * h, 1), count,
                      codes[0] + 64 * h);
    }

    alignas(64) static constexpr uint8_t kNothing[kEntryBytes] = {};
    const int64_t stride = static_cast<int64_t>(weight.num_codebooks) * kEntryBytes;
    I32 words[kHalves][kDigits], odds[kHalves][kDigits];
    for (int h = 0; h < kHalves; ++h) {
      for (int d = 0; d < kDigits; ++d) words[h][d] = odds[h][d] = V::set1(0);
    }
    for (int e = 0; e < count; e += 2) {
      const bool pair = e + 1 < count;
      const uint8_t* const entry0 = entries + e * stride;
      const uint8_t* const entry1 = pair ? entry0 + stride : kNothing;
      I32 code0[kHalves], code1[kHalves];
      __mmask64 upper0[kHalves], upper1[kHalves];
      for (int h = 0; h < kHalves; ++h) {
        code0[h] = V::load(codes[e] + 64 * h);
        code1[h] = V::load(codes[pair ? e + 1 : e] + 64 * h);
        upper0[h] = _mm512_movepi8_mask(code0[h]);
        upper1[h] = _mm512_movepi8_mask(code1[h]);
      }
      for (int d = 0; d < kDigits; ++d) {
        for (int h = 0; h < kHalves; ++h) {
          const I32 both = _mm512_add_epi8(look(entry0 + d * kCodes, code0[h], upper0[h]),
                                           look(entry1 + d * kCodes, code1[h], upper1[h]));
          words[h][d] = _mm512_add_epi16(words[h][d], both);
          odds[h][d] = _mm512_add_epi16(odds[h][d], _mm512_srli_epi16(both, 8));
        }
      }
    }
    const I32 low = V::set1(0x0000ffff);
    for (int h = 0; h < kHalves; ++h) {
      for (int d = 0; d < kDigits; ++d) {
        const I32 even = _mm512_sub_epi16(words[h][d], _mm512_slli_epi16(odds[h][d], 8));
        const I32 kinds[4] = {V::bit_and(even, low), V::bit_and(odds[h][d], low), _mm512_srli_epi32(even, 16),
                              _mm512_srli_epi32(odds[h][d], 16)};
        for (int k = 0; k < 4; ++k) {
          const int left = valid - 64 * h - 16 * k;
          if (left <= 0) break;
          const auto lanes = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
          int32_t* const total = sums.data + d * sums.stride + n + 64 * h + 16 * k;
          _mm512_mask_storeu_epi32(total, lanes, V::add(_mm512_maskz_loadu_epi32(lanes, total), kinds[k]));
        }
      }
    }
  }
};

}  // namespace lowbit::codebook
