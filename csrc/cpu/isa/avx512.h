// 16 lanes: AVX-512 F, BW, VL, DQ and VNNI.
#pragma once

// GCC 12 believes that the "undefined" operands inside its own AVX-512 header are uninitialised variables
// (gcc.gnu.org/PR105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <cstring>

#include "cpu/isa/inline.h"

namespace lowbit::isa {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kAccumulators = 16;  // of 32 registers; the rest hold bits, masks and activations
  static constexpr bool kFullByteDot = true;
  static constexpr int64_t kSumLimit = INT32_MAX;

  using I32 = __m512i;
  using F32 = __m512;
  using Sum = __m512i;
  using Table = __m512;

  static LOWBIT_INLINE I32 load(const void* p) { return _mm512_loadu_si512(p); }
  static LOWBIT_INLINE void store(void* p, I32 a) { _mm512_storeu_si512(p, a); }
  static LOWBIT_INLINE I32 set1(int32_t value) { return _mm512_set1_epi32(value); }
  static LOWBIT_INLINE I32 broadcast(const void* p) {
    int32_t value;
    std::memcpy(&value, p, sizeof value);
    return _mm512_set1_epi32(value);
  }
  static LOWBIT_INLINE I32 add(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_left(I32 a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right(I32 a) {
    return _mm512_srai_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right_logical(I32 a) {
    return _mm512_srli_epi32(a, kBits);
  }
  static LOWBIT_INLINE I32 shift_left_by(I32 a, int bits) {
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits));
  }
  static LOWBIT_INLINE I32 bit_and(I32 a, I32 b) { return _mm512_and_si512(a, b); }
  static LOWBIT_INLINE I32 bit_xor(I32 a, I32 b) { return _mm512_xor_si512(a, b); }
  static LOWBIT_INLINE I32 max(I32 a, I32 b) { return _mm512_max_epi32(a, b); }
  static LOWBIT_INLINE int32_t horizontal_max(I32 a) { return _mm512_reduce_max_epi32(a); }
  static LOWBIT_INLINE int32_t horizontal_sum(I32 a) { return _mm512_reduce_add_epi32(a); }
  static LOWBIT_INLINE I32 pack_bytes(const I32 (&values)[4]) {
    const I32 order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const I32 low = _mm512_packs_epi32(values[0], values[1]), high = _mm512_packs_epi32(values[2], values[3]);
    return _mm512_shuffle_epi8(_mm512_packs_epi16(low, high), order);
  }
  template <int kShift>
  static LOWBIT_INLINE void exchange(I32 mask, I32& low, I32& high) {
    const I32 up = shift_left<kShift>(high);
    const I32 down = shift_right_logical<kShift>(low);
    low = _mm512_ternarylogic_epi32(up, low, mask, 0xd8);      // mask ? low : up
    high = _mm512_ternarylogic_epi32(down, high, mask, 0xe4);  // mask ? down : high
  }
  static LOWBIT_INLINE I32 widen_i16(const int16_t* p) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static LOWBIT_INLINE Sum sum_zero() { return _mm512_setzero_si512(); }
  static LOWBIT_INLINE Sum dot(Sum sum, I32 u, I32 x) {
    sum = _mm512_dpbusd_epi32(sum, u, x);
    LOWBIT_KEEP(sum);
    return sum;
  }
  template <int kShift>
  static LOWBIT_INLINE I32 fold(I32 a, Sum sum) {
    if constexpr (kShift > 0) {
      return add(a, shift_left<kShift>(sum));
    } else if constexpr (kShift == 0) {
      return add(a, sum);
    } else {
      return add(a, shift_right<-kShift>(sum));
    }
  }

  static LOWBIT_INLINE F32 fset1(float value) { return _mm512_set1_ps(value); }
  static LOWBIT_INLINE F32 fload(const float* p) { return _mm512_loadu_ps(p); }
  static LOWBIT_INLINE void fstore(float* p, F32 a) { _mm512_storeu_ps(p, a); }
  static LOWBIT_INLINE F32 fadd(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static LOWBIT_INLINE F32 fsub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static LOWBIT_INLINE F32 fmul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static LOWBIT_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE F32 fmax(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static LOWBIT_INLINE F32 fmin(F32 a, F32 b) { return _mm512_min_ps(a, b); }
  static LOWBIT_INLINE F32 fabs(F32 a) { return _mm512_abs_ps(a); }
  static LOWBIT_INLINE F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }
  static LOWBIT_INLINE I32 to_int(F32 a) { return _mm512_cvtps_epi32(a); }
  static LOWBIT_INLINE F32 as_float(I32 a) { return _mm512_castsi512_ps(a); }
  static LOWBIT_INLINE float horizontal_sum(F32 a) { return _mm512_reduce_add_ps(a); }

  static LOWBIT_INLINE F32 load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWBIT_INLINE F32 load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static LOWBIT_INLINE void store_f16(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static LOWBIT_INLINE void store_bf16(uint16_t* p, F32 a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }

  static LOWBIT_INLINE Table load_table(const float* p) { return _mm512_loadu_ps(p); }
  // vpermps reads the low four bits of each index and ignores the rest, so the nibbles need no masking.
  template <int kShift>
  static LOWBIT_INLINE F32 lookup(Table table, I32 w) {
    return _mm512_permutexvar_ps(kShift == 0 ? w : shift_right_logical<kShift>(w), table);
  }
};

}  // namespace lowbit::isa
