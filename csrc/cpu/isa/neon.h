// 4 lanes: Armv8.2 Advanced SIMD with the dot product and fp16 extensions.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "cpu/isa/inline.h"

namespace lowbit::isa {

struct Neon {
  static constexpr int kLanes = 4;
  static constexpr int kAccumulators = 16;     // of 32 registers
  static constexpr bool kFullByteDot = false;  // sdot reads both sides as signed bytes
  static constexpr int64_t kSumLimit = INT32_MAX;

  using I32 = int32x4_t;
  using F32 = float32x4_t;
  using Sum = int32x4_t;
  using Table = uint8x16x4_t;

  static LOWBIT_INLINE I32 load(const void* p) {
    return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
  }
  static LOWBIT_INLINE void store(void* p, I32 a) {
    vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(a));
  }
  static LOWBIT_INLINE I32 set1(int32_t value) { return vdupq_n_s32(value); }
  static LOWBIT_INLINE I32 broadcast(const void* p) {
    int32_t value;
    std::memcpy(&value, p, sizeof value);
    return vdupq_n_s32(value);
  }
  static LOWBIT_INLINE I32 add(I32 a, I32 b) { return vaddq_s32(a, b); }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_left(I32 a) {
    return vshlq_n_s32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right(I32 a) {
    return vshrq_n_s32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right_logical(I32 a) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), kBits));
  }
  static LOWBIT_INLINE I32 shift_left_by(I32 a, int bits) { return vshlq_s32(a, vdupq_n_s32(bits)); }
  static LOWBIT_INLINE I32 bit_and(I32 a, I32 b) { return vandq_s32(a, b); }
  static LOWBIT_INLINE I32 bit_xor(I32 a, I32 b) { return veorq_s32(a, b); }
  static LOWBIT_INLINE I32 max(I32 a, I32 b) { return vmaxq_s32(a, b); }
  static LOWBIT_INLINE int32_t horizontal_max(I32 a) { return vmaxvq_s32(a); }
  static LOWBIT_INLINE int32_t horizontal_sum(I32 a) { return vaddvq_s32(a); }
  // Shifts that insert keep the bits below.
  static LOWBIT_INLINE I32 pack_bytes(const I32 (&values)[4]) {
    const I32 low = vsliq_n_s32(values[0], values[1], 8), high = vsliq_n_s32(values[2], values[3], 8);
    return vsliq_n_s32(low, high, 16);
  }
  template <int kShift>
  static LOWBIT_INLINE void exchange(I32 mask, I32& low, I32& high) {
    const I32 changed = bit_and(mask, bit_xor(shift_right_logical<kShift>(low), high));
    high = bit_xor(high, changed);
    low = bit_xor(low, shift_left<kShift>(changed));
  }
  static LOWBIT_INLINE I32 widen_i16(const int16_t* p) { return vmovl_s16(vld1_s16(p)); }

  static LOWBIT_INLINE Sum sum_zero() { return vdupq_n_s32(0); }
  static LOWBIT_INLINE Sum dot(Sum sum, I32 u, I32 x) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(x));
  }
  template <int kShift>
  static LOWBIT_INLINE I32 fold(I32 a, Sum sum) {
    if constexpr (kShift > 0) {
      return add(a, shift_left<kShift>(sum));
    } else if constexpr (kShift == 0) {
      return add(a, sum);
    } else {
      return vsraq_n_s32(a, sum, -kShift);
    }
  }

  static LOWBIT_INLINE F32 fset1(float value) { return vdupq_n_f32(value); }
  static LOWBIT_INLINE F32 fload(const float* p) { return vld1q_f32(p); }
  static LOWBIT_INLINE void fstore(float* p, F32 a) { vst1q_f32(p, a); }
  static LOWBIT_INLINE F32 fadd(F32 a, F32 b) { return vaddq_f32(a, b); }
  static LOWBIT_INLINE F32 fsub(F32 a, F32 b) { return vsubq_f32(a, b); }
  static LOWBIT_INLINE F32 fmul(F32 a, F32 b) { return vmulq_f32(a, b); }
  static LOWBIT_INLINE F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
  static LOWBIT_INLINE F32 fmax(F32 a, F32 b) { return vmaxq_f32(a, b); }
  static LOWBIT_INLINE F32 fmin(F32 a, F32 b) { return vminq_f32(a, b); }
  static LOWBIT_INLINE F32 fabs(F32 a) { return vabsq_f32(a); }
  static LOWBIT_INLINE F32 to_float(I32 a) { return vcvtq_f32_s32(a); }
  static LOWBIT_INLINE I32 to_int(F32 a) { return vcvtnq_s32_f32(a); }
  static LOWBIT_INLINE F32 as_float(I32 a) { return vreinterpretq_f32_s32(a); }
  static LOWBIT_INLINE float horizontal_sum(F32 a) { return vaddvq_f32(a); }

  static LOWBIT_INLINE F32 load_f16(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static LOWBIT_INLINE F32 load_bf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  static LOWBIT_INLINE void store_f16(uint16_t* p, F32 a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
  }
  static LOWBIT_INLINE void store_bf16(uint16_t* p, F32 a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16));
  }

  static LOWBIT_INLINE Table load_table(const float* p) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(p);
    return {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
  }
  // tbl looks bytes up, so entry n becomes the four byte indices 4 n .. 4 n + 3.
  template <int kShift>
  static LOWBIT_INLINE F32 lookup(Table table, I32 w) {
    uint32x4_t index = vreinterpretq_u32_s32(w);
    if constexpr (kShift > 0) index = vshrq_n_u32(index, kShift);
    index = vandq_u32(index, vdupq_n_u32(15));
    index = vmlaq_u32(vdupq_n_u32(0x03020100u), index, vdupq_n_u32(0x04040404u));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(index)));
  }
};

}  // namespace lowbit::isa
