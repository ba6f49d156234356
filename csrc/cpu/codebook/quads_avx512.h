// Scalar tables on AVX-512 where rows are short: a vector holds 128 inputs of each of four rows.
//
// One row at a time wastes most of its last vector when K is not a multiple of 512, and builds its tables and
// adds up its lanes alone. Here 128-bit quarter r of every vector belongs to row n + r, and vpshufb looks
// each quarter up in the table of its own row:
//
//   plane      | row n, 16 bytes | row n + 1 | row n + 2 | row n + 3 |
//   tables     | digit of row n's 16 entries | ...
//   x          | the same 16 bytes four times |
//
// Costs 12 loads in place of 3 per 512 weights (3 bits), and a mask per look-up: vpshufb reads 4 bits but bit
// 7 must be 0. `Base` is the traits class of codebook_avx512.cpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/half.h"
#include "cpu/codebook/codebook.h"
#include "cpu/codebook/codes.h"
#include "cpu/codebook/fixed_point.h"
#include "cpu/codebook/stored_digits.h"
#include "cpu/isa/avx512.h"

namespace lowbit::codebook {

template <class Base, int kBits>
struct Quads {
  using I32 = typename Base::I32;
  using F32 = typename Base::F32;
  using Scale = FixedPoint<Base::kDigitBits>;

  static constexpr int kRows = 4;
  static constexpr int kGroup = 128;              // inputs of a row in a vector
  static constexpr int kGroupBytes = kGroup / 8;  // of each plane
  static constexpr int kEntries = 1 << kBits;

  // Digit tables of four rows, and the step of row r in the lanes of quarter r.
  struct Tables {
    I32 digits[3];
    F32 step;

    LOWBIT_INLINE void build(const uint8_t* const* rows, lowbit_dtype dtype) {
      F32 values[kRows], magnitude[kRows];
      for (int r = 0; r < kRows; ++r) {
        values[r] = Base::load_entries(rows[r], dtype, 0, kEntries);
        magnitude[r] = Base::fabs(values[r]);
      }
      const F32 largest = Base::fmax(quarter_max(magnitude), Base::fset1(1e-30f));
      step = Base::fmul(largest, Base::fset1(1.0f / Scale::kLargest));
      const F32 inverse = _mm512_div_ps(Base::fset1(Scale::kLargest), largest);
      I32 bytes[kRows];
      for (int r = 0; r < kRows; ++r) {
        const F32 row_inverse = _mm512_permutexvar_ps(_mm512_set1_epi32(4 * r), inverse);
        const I32 codes =
            Base::add(Base::to_int(Base::fmul(values[r], row_inverse)), Base::set1(Scale::kHalf));
        // Byte d of the 16 codes to quarter d.
        alignas(64) static constexpr auto kByDigit = by_digit();
        bytes[r] = _mm512_permutexvar_epi8(Base::load(kByDigit.bytes), codes);
      }
      // Quarter d of row r to quarter r of digit d: a transpose of four by four quarters, the last digit
      // unused.
      const I32 low01 = _mm512_shuffle_i32x4(bytes[0], bytes[1], 0x44);
      const I32 low23 = _mm512_shuffle_i32x4(bytes[2], bytes[3], 0x44);
      const I32 high01 = _mm512_shuffle_i32x4(bytes[0], bytes[1], 0xee);
      const I32 high23 = _mm512_shuffle_i32x4(bytes[2], bytes[3], 0xee);
      digits[0] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      digits[1] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
      digits[2] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    }
    LOWBIT_INLINE I32 look(int digit, I32 index) const { return _mm512_shuffle_epi8(digits[digit], index); }

   private:
    struct Pattern {
      uint8_t bytes[64];
    };
    static constexpr Pattern by_digit() {
      Pattern result{};
      for (int i = 0; i < 64; ++i) result.bytes[i] = static_cast<uint8_t>(i % 16 * 4 + i / 16);
      return result;
    }
    // Quarter r: the largest lane of rows[r].
    static LOWBIT_INLINE F32 quarter_max(const F32* rows) {
      const F32 pair01 = Base::fmax(_mm512_shuffle_f32x4(rows[0], rows[1], 0x44),
                                    _mm512_shuffle_f32x4(rows[0], rows[1], 0xee));
      const F32 pair23 = Base::fmax(_mm512_shuffle_f32x4(rows[2], rows[3], 0x44),
                                    _mm512_shuffle_f32x4(rows[2], rows[3], 0xee));
      F32 all =
          Base::fmax(_mm512_shuffle_f32x4(pair01, pair23, 0x88), _mm512_shuffle_f32x4(pair01, pair23, 0xdd));
      all = Base::fmax(all, _mm512_permute_ps(all, 0x4e));
      return Base::fmax(all, _mm512_permute_ps(all, 0xb1));
    }
  };

  // Planes of one group of four rows.
  static LOWBIT_INLINE I32 load_quarters(const uint8_t* const* rows, int64_t offset, int64_t bytes) {
    __m128i quarter[kRows];
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* const p = rows[r] + offset;
      quarter[r] = bytes >= kGroupBytes ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                        : _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << bytes) - 1), p);
    }
    const __m512i first = _mm512_inserti32x4(_mm512_castsi128_si512(quarter[0]), quarter[1], 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(first, quarter[2], 2), quarter[3], 3);
  }

  // The digits of rows n .. n + 3 as they are looked up. `valid` of them exist; the others repeat the last.
  struct LookedUp {
    Tables tables;
    const uint8_t* planes[kRows];
    int64_t row_bytes, plane_stride;

    LOWBIT_INLINE LookedUp(const lowbit_codebook_scalar& weight, int64_t n, int valid)
        : row_bytes((weight.in_features + 7) / 8), plane_stride(weight.out_features * row_bytes) {
      const uint8_t* table_rows[kRows];
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = n + std::min(r, valid - 1);
        planes[r] = weight.weight + row * row_bytes;
        table_rows[r] =
            static_cast<const uint8_t*>(weight.tables) + (row << kBits) * dtype_size(weight.tables_dtype);
      }
      tables.build(table_rows, weight.tables_dtype);
    }

    template <class Use>
    LOWBIT_INLINE void for_each(int64_t group, Use use) const {
      const I32 index_mask = Base::set1(0x01010101 * (kEntries - 1));
      I32 bits[kBits];
      for (int b = 0; b < kBits; ++b) {
        const int64_t offset = group * kGroupBytes;
        bits[b] = load_quarters(planes, b * plane_stride + offset, row_bytes - offset);
      }
      for_each_code<Base, kBits>(bits, [&](int j, I32 index) LOWBIT_LAMBDA_INLINE {
        const I32 code = Base::bit_and(index, index_mask);
        const I32 u[3] = {tables.look(0, code), tables.look(1, code), tables.look(2, code)};
        use(j, u);
      });
    }
  };

  // Never inlined, so that profiles can name its loop.
  template <int kTokens, class Digits>
  static LOWBIT_NOINLINE void block(const Digits& digits, F32 step, const ChunkedCodes& x, const Sums& sums,
                                    int64_t column, int valid, int64_t m) {
    const int64_t code_stride = x.chunks * kGroup, scale_stride = x.chunks * 4;
    const int8_t* codes = x.codes + m * code_stride;
    const float* scales = x.scales + m * scale_stride;
    const F32 radix = Base::fset1(1 << Base::kDigitBits);
    F32 total[kTokens];
    for (F32& t : total) t = Base::fset1(0.0f);
    for (int64_t group = 0; group < x.chunks; ++group, codes += kGroup, scales += 4) {
      I32 d[kTokens][3];
      for (auto& token : d) {
        for (I32& digit : token) digit = Base::set1(0);
      }
      digits.for_each(group, [&](int j, const I32* u) LOWBIT_LAMBDA_INLINE {
        for (int t = 0; t < kTokens; ++t) {
          const auto* const p = reinterpret_cast<const __m128i*>(codes + t * code_stride + j * kGroupBytes);
          const I32 a = _mm512_broadcast_i32x4(_mm_load_si128(p));
          for (int i = 0; i < 3; ++i) d[t][i] = Base::byte_products(d[t][i], u[i], a);
        }
      });
      for (int t = 0; t < kTokens; ++t) {
        const I32 upper = Base::add(Base::template shift_left<Base::kDigitBits>(d[t][2]), d[t][1]);
        const F32 value = Base::fma(Base::to_float(upper), radix, Base::to_float(d[t][0]));
        total[t] = Base::fma(value, Base::fset1(scales[t * scale_stride]), total[t]);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      F32 sum = Base::fadd(total[t], _mm512_permute_ps(total[t], 0x4e));
      sum = Base::fadd(sum, _mm512_permute_ps(sum, 0xb1));
      sum = Base::fmul(step, Base::fsub(sum, Base::fset1(float{Scale::kHalf} * x.sums[m + t])));
      const __m128 four = _mm512_castps512_ps128(
          _mm512_permutexvar_ps(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0), sum));
      _mm_mask_storeu_ps(sums.data + (m + t) * sums.stride + column, static_cast<__mmask8>((1u << valid) - 1),
                         four);
    }
  }

  static void digits(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                     int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n += kRows) {
      const int valid = static_cast<int>(std::min<int64_t>(kRows, end - n));
      const LookedUp digits(weight, n, valid);
      if (x.stored_digits == nullptr) {
        blocks(digits, digits.tables.step, x, sums, n - begin, valid);
        continue;
      }
      for (int64_t group = 0; group < x.chunks; ++group) {
        digits.for_each(group, [&](int j, const I32* u) LOWBIT_LAMBDA_INLINE {
          uint8_t* const to = x.stored_digits + (8 * group + j) * 192;
          for (int i = 0; i < 3; ++i) Base::store(to + 64 * i, u[i]);
        });
      }
      blocks(StoredDigits<Base>{x.stored_digits}, digits.tables.step, x, sums, n - begin, valid);
    }
  }

 private:
  template <class Digits>
  static void blocks(const Digits& digits, F32 step, const ChunkedCodes& x, const Sums& sums, int64_t column,
                     int valid) {
    int64_t m = 0;
    for (; m + Base::kTableTokens <= x.tokens; m += Base::kTableTokens) {
      block<Base::kTableTokens>(digits, step, x, sums, column, valid, m);
    }
    for (; m < x.tokens; ++m) block<1>(digits, step, x, sums, column, valid, m);
  }
};

}  // namespace lowbit::codebook
