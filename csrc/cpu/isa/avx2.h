// 8 lanes: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/isa/inline.h"

namespace lowbit::isa {

// Everything but the byte products, which AVX2 and AVX-VNNI do differently. `Tag` keeps the two sets of
// symbols apart: a function of one must never be linked to the copy compiled for the other.
template <class Tag>
struct Vectors256 {
  static constexpr int kLanes = 8;
  static constexpr int kAccumulators = 8;  // of 16 registers

  using I32 = __m256i;
  using F32 = __m256;
  struct Table {
    __m256 low, high;
  };

  static LOWBIT_INLINE I32 load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static LOWBIT_INLINE void store(void* p, I32 a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
  static LOWBIT_INLINE I32 set1(int32_t value) { return _mm256_set1_epi32(value); }
  static LOWBIT_INLINE I32 broadcast(const void* p) {
    int32_t value;
    std::memcpy(&value, p, sizeof value);
    return _mm256_set1_epi32(value);
  }
  static LOWBIT_INLINE I32 add(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_left(I32 a) {
    return _mm256_slli_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right(I32 a) {
    return _mm256_srai_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right_logical(I32 a) {
    return _mm256_srli_epi32(a, kBits);
  }
  static LOWBIT_INLINE I32 shift_left_by(I32 a, int bits) {
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits));
  }
  static LOWBIT_INLINE I32 bit_and(I32 a, I32 b) { return _mm256_and_si256(a, b); }
  static LOWBIT_INLINE I32 bit_xor(I32 a, I32 b) { return _mm256_xor_si256(a, b); }
  static LOWBIT_INLINE I32 max(I32 a, I32 b) { return _mm256_max_epi32(a, b); }
  static LOWBIT_INLINE int32_t horizontal_max(I32 a) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    four = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0x55)));
  }
  static LOWBIT_INLINE int32_t horizontal_sum(I32 a) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0x55)));
  }
  static LOWBIT_INLINE I32 pack_bytes(const I32 (&values)[4]) {
    const I32 order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const I32 low = _mm256_packs_epi32(values[0], values[1]), high = _mm256_packs_epi32(values[2], values[3]);
    return _mm256_shuffle_epi8(_mm256_packs_epi16(low, high), order);
  }
  template <int kShift>
  static LOWBIT_INLINE void exchange(I32 mask, I32& low, I32& high) {
    const I32 changed = bit_and(mask, bit_xor(shift_right_logical<kShift>(low), high));
    high = bit_xor(high, changed);
    low = bit_xor(low, shift_left<kShift>(changed));
  }
  static LOWBIT_INLINE I32 widen_i16(const int16_t* p) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  static LOWBIT_INLINE F32 fset1(float value) { return _mm256_set1_ps(value); }
  static LOWBIT_INLINE F32 fload(const float* p) { return _mm256_loadu_ps(p); }
  static LOWBIT_INLINE void fstore(float* p, F32 a) { _mm256_storeu_ps(p, a); }
  static LOWBIT_INLINE F32 fadd(F32 a, F32 b) { return _mm256_add_ps(a, b); }
  static LOWBIT_INLINE F32 fsub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
  static LOWBIT_INLINE F32 fmul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
  static LOWBIT_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE F32 fmax(F32 a, F32 b) { return _mm256_max_ps(a, b); }
  static LOWBIT_INLINE F32 fmin(F32 a, F32 b) { return _mm256_min_ps(a, b); }
  static LOWBIT_INLINE F32 fabs(F32 a) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
  }
  static LOWBIT_INLINE F32 to_float(I32 a) { return _mm256_cvtepi32_ps(a); }
  static LOWBIT_INLINE I32 to_int(F32 a) { return _mm256_cvtps_epi32(a); }
  static LOWBIT_INLINE F32 as_float(I32 a) { return _mm256_castsi256_ps(a); }
  static LOWBIT_INLINE float horizontal_sum(F32 a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }

  static LOWBIT_INLINE F32 load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE F32 load_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static LOWBIT_INLINE void store_f16(uint16_t* p, F32 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static LOWBIT_INLINE void store_bf16(uint16_t* p, F32 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i half = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    // packus works within 128-bit halves; the permutation brings the two quarters that hold values together.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }

  static LOWBIT_INLINE Table load_table(const float* p) { return {fload(p), fload(p + 8)}; }
  // Bits 0..2 of the index pick inside each half, bit 3 (moved to the sign) picks the half.
  template <int kShift>
  static LOWBIT_INLINE F32 lookup(Table table, I32 w) {
    const I32 index = kShift == 0 ? w : shift_right_logical<kShift>(w);
    const I32 half = kShift == 28 ? w : shift_left<28 - kShift>(w);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index),
                            _mm256_permutevar8x32_ps(table.high, index), _mm256_castsi256_ps(half));
  }
};

struct Avx2 : Vectors256<Avx2> {
  static constexpr bool kFullByteDot = false;
  static constexpr int64_t kSumLimit = INT16_MAX;

  using Sum = __m256i;  // 16 lanes of 16 bits: the pairs of products that vpmaddubsw adds

  static LOWBIT_INLINE Sum sum_zero() { return _mm256_setzero_si256(); }
  static LOWBIT_INLINE Sum dot(Sum sum, I32 u, I32 x) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, x));
    LOWBIT_KEEP(sum);
    return sum;
  }
  template <int kShift>
  static LOWBIT_INLINE I32 fold(I32 a, Sum sum) {
    const I32 wide = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    if constexpr (kShift > 0) {
      return add(a, shift_left<kShift>(wide));
    } else if constexpr (kShift == 0) {
      return add(a, wide);
    } else {
      return add(a, shift_right<-kShift>(wide));
    }
  }
};

}  // namespace lowbit::isa
