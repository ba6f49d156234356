// One lane in plain C++: the twin every vector trait is tested against, and the path of any other machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "cpu/isa/inline.h"

namespace lowbit::isa {

struct Scalar {
  static constexpr int kLanes = 1;
  static constexpr int kAccumulators = 8;
  static constexpr bool kFullByteDot = true;
  static constexpr int64_t kSumLimit = INT32_MAX;

  using I32 = uint32_t;  // unsigned: sums wrap like the vector instructions do
  using F32 = float;
  using Sum = uint32_t;
  using Table = const float*;

  static LOWBIT_INLINE I32 load(const void* p) {
    I32 value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static LOWBIT_INLINE void store(void* p, I32 a) { std::memcpy(p, &a, sizeof a); }
  static LOWBIT_INLINE I32 set1(int32_t value) { return static_cast<I32>(value); }
  static LOWBIT_INLINE I32 broadcast(const void* p) { return load(p); }
  static LOWBIT_INLINE I32 add(I32 a, I32 b) { return a + b; }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_left(I32 a) {
    return a << kBits;
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right(I32 a) {
    return static_cast<I32>(static_cast<int32_t>(a) >> kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE I32 shift_right_logical(I32 a) {
    return a >> kBits;
  }
  static LOWBIT_INLINE I32 shift_left_by(I32 a, int bits) { return a << bits; }
  static LOWBIT_INLINE I32 bit_and(I32 a, I32 b) { return a & b; }
  static LOWBIT_INLINE I32 bit_xor(I32 a, I32 b) { return a ^ b; }
  static LOWBIT_INLINE I32 max(I32 a, I32 b) {
    return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
  }
  static LOWBIT_INLINE int32_t horizontal_max(I32 a) { return static_cast<int32_t>(a); }
  static LOWBIT_INLINE int32_t horizontal_sum(I32 a) { return static_cast<int32_t>(a); }
  static LOWBIT_INLINE I32 pack_bytes(const I32 (&values)[4]) {
    return (values[0] & 0xffu) | (values[1] & 0xffu) << 8 | (values[2] & 0xffu) << 16 | values[3] << 24;
  }
  template <int kShift>
  static LOWBIT_INLINE void exchange(I32 mask, I32& low, I32& high) {
    const I32 changed = bit_and(mask, bit_xor(shift_right_logical<kShift>(low), high));
    high = bit_xor(high, changed);
    low = bit_xor(low, shift_left<kShift>(changed));
  }
  static LOWBIT_INLINE I32 widen_i16(const int16_t* p) { return static_cast<I32>(static_cast<int32_t>(*p)); }

  static LOWBIT_INLINE Sum sum_zero() { return 0; }
  static LOWBIT_INLINE Sum dot(Sum sum, I32 u, I32 x) {
    for (int byte = 0; byte < 32; byte += 8) {
      sum += ((u >> byte) & 0xffu) * static_cast<I32>(static_cast<int32_t>(static_cast<int8_t>(x >> byte)));
    }
    return sum;
  }
  template <int kShift>
  static LOWBIT_INLINE I32 fold(I32 a, Sum sum) {
    if constexpr (kShift >= 0) {
      return a + (sum << kShift);
    } else {
      return a + shift_right<-kShift>(sum);
    }
  }

  static LOWBIT_INLINE F32 fset1(float value) { return value; }
  static LOWBIT_INLINE F32 fload(const float* p) { return *p; }
  static LOWBIT_INLINE void fstore(float* p, F32 a) { *p = a; }
  static LOWBIT_INLINE F32 fadd(F32 a, F32 b) { return a + b; }
  static LOWBIT_INLINE F32 fsub(F32 a, F32 b) { return a - b; }
  static LOWBIT_INLINE F32 fmul(F32 a, F32 b) { return a * b; }
  static LOWBIT_INLINE F32 fma(F32 a, F32 b, F32 c) { return std::fma(a, b, c); }
  static LOWBIT_INLINE F32 fmax(F32 a, F32 b) { return a > b ? a : b; }
  static LOWBIT_INLINE F32 fmin(F32 a, F32 b) { return a < b ? a : b; }
  static LOWBIT_INLINE F32 fabs(F32 a) { return float_from_bits(float_bits(a) & 0x7fffffffu); }
  static LOWBIT_INLINE F32 to_float(I32 a) { return static_cast<float>(static_cast<int32_t>(a)); }
  static LOWBIT_INLINE I32 to_int(F32 a) { return static_cast<I32>(static_cast<int32_t>(std::nearbyint(a))); }
  static LOWBIT_INLINE F32 as_float(I32 a) { return float_from_bits(a); }
  static LOWBIT_INLINE float horizontal_sum(F32 a) { return a; }

  static LOWBIT_INLINE F32 load_f16(const uint16_t* p) { return fp16_to_float(*p); }
  static LOWBIT_INLINE F32 load_bf16(const uint16_t* p) { return bf16_to_float(*p); }
  static LOWBIT_INLINE void store_f16(uint16_t* p, F32 a) { *p = float_to_fp16(a); }
  static LOWBIT_INLINE void store_bf16(uint16_t* p, F32 a) { *p = float_to_bf16(a); }

  static LOWBIT_INLINE Table load_table(const float* p) { return p; }
  template <int kShift>
  static LOWBIT_INLINE F32 lookup(Table table, I32 w) {
    return table[(w >> kShift) & 15u];
  }
};

}  // namespace lowbit::isa
