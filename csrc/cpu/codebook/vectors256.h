// What AVX2 and AVX-VNNI share: 8 lanes, a chunk is 256 inputs. `Base` is either's traits of cpu/isa.
#pragma once

#include <immintrin.h>

#include "core/half.h"
#include "cpu/codebook/fixed_point.h"
#include "cpu/isa/inline.h"

namespace lowbit::codebook {

template <class Base, int kDigitWidth>
struct Vectors256 : Base {
  using typename Base::F32;
  using typename Base::I32;

  static constexpr int kDigitBits = kDigitWidth;
  static constexpr int kMaxDigitBits = 4;  // 16 bytes: the table of one vpshufb
  static constexpr int kPairedBits = 0;
  static constexpr int kTableTokens = 2;
  static constexpr int kExpandedBits = 1;  // 35 G/s at 3 bits, 21 at 4, 12 at 5; expanded 51

  static LOWBIT_INLINE I32 select(I32 mask, I32 a, I32 b) {
    return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
  }

  static LOWBIT_INLINE I32 load_part(const void* p, int bytes) {
    alignas(32) char buffer[32] = {};
    std::memcpy(buffer, p, static_cast<size_t>(bytes));
    return Base::load(buffer);
  }

  // Entries of one row as floats, repeated up to `kCount`.
  template <int kEntries, int kCount>
  static LOWBIT_INLINE void load_entries(const void* row, lowbit_dtype dtype, float* values) {
    alignas(32) char raw[(kCount < 8 ? 8 : kCount) * sizeof(float)];
    const size_t bytes = static_cast<size_t>(kEntries * dtype_size(dtype));
    for (size_t done = 0; done < static_cast<size_t>(kCount * dtype_size(dtype)); done += bytes) {
      std::memcpy(raw + done, row, bytes);
    }
    for (int i = 0; i < kCount; i += 8) {
      const uint16_t* const half = reinterpret_cast<const uint16_t*>(raw) + i;
      Base::fstore(values + i, dtype == LOWBIT_F32   ? Base::fload(reinterpret_cast<const float*>(raw) + i)
                               : dtype == LOWBIT_F16 ? Base::load_f16(half)
                                                     : Base::load_bf16(half));
    }
  }

  template <int kBits>
  struct Digits {
    static constexpr int kEntries = 1 << kBits;
    I32 table[3];

    LOWBIT_INLINE float build(const void* row, lowbit_dtype dtype) {
      alignas(32) float values[16];
      load_entries<kEntries, 16>(row, dtype, values);
      const F32 first = Base::fload(values), second = Base::fload(values + 8);
      const F32 largest = Base::fmax(Base::fabs(first), Base::fabs(second));
      __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
      four = _mm_max_ps(four, _mm_movehl_ps(four, four));
      four = _mm_max_ss(four, _mm_movehdup_ps(four));
      const FixedPoint<kDigitBits> scale(_mm_cvtss_f32(four));
      const F32 inverse = Base::fset1(scale.inverse);
      const I32 half = Base::set1(scale.kHalf);
      const I32 low = Base::add(Base::to_int(Base::fmul(first, inverse)), half);
      const I32 high = Base::add(Base::to_int(Base::fmul(second, inverse)), half);
      for (int d = 0; d < 3; ++d) table[d] = digit(low, high, d);
      return scale.step;
    }
    LOWBIT_INLINE I32 look(int digit, I32 index) const {
      // vpshufb zeroes where bit 7 of the index is set, hence the mask.
      return _mm256_shuffle_epi8(table[digit], Base::bit_and(index, Base::set1(0x01010101 * (kEntries - 1))));
    }

   private:
    // Digit d of 16 dwords as 16 bytes, in both halves of a vector.
    static LOWBIT_INLINE I32 digit(I32 low, I32 high, int d) {
      const __m128i shift = _mm_cvtsi32_si128(d * kDigitBits);
      const I32 mask = Base::set1((1 << kDigitBits) - 1);
      const I32 a = Base::bit_and(_mm256_srl_epi32(low, shift), mask);
      const I32 b = Base::bit_and(_mm256_srl_epi32(high, shift), mask);
      const __m128i words_a = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
      const __m128i words_b = _mm_packus_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
      return _mm256_broadcastsi128_si256(_mm_packus_epi16(words_a, words_b));
    }
  };

  // Up to 8 entries: vpermps; 16: two and a choice; then gathers.
  template <int kBits>
  struct Entries {
    static constexpr int kEntries = 1 << kBits;
    alignas(32) float values[kEntries < 8 ? 8 : kEntries];

    LOWBIT_INLINE void build(const void* row, lowbit_dtype dtype) {
      load_entries<kEntries, (kEntries < 8 ? 8 : kEntries)>(row, dtype, values);
    }
    template <int kShift>
    LOWBIT_INLINE F32 pick(I32 index) const {
      if constexpr (kBits == 4) {
        return Base::template lookup<kShift>(Base::load_table(values), index);
      } else {
        const I32 code = kShift == 0 ? index : Base::template shift_right_logical<kShift>(index);
        if constexpr (kBits < 4) return _mm256_permutevar8x32_ps(Base::fload(values), code);
        return _mm256_i32gather_ps(values, Base::bit_and(code, Base::set1(kEntries - 1)), sizeof(float));
      }
    }
  };
};

}  // namespace lowbit::codebook
