// Arithmetic and conversions that nvcc has built in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>

// ---- Bits
// -------------------------------------------------------------------------------------------------------

inline int __popc(unsigned a) {
  return std::popcount(a);
}
inline int __popcll(unsigned long long a) {
  return std::popcount(a);
}
inline int __clz(int a) {
  return std::countl_zero(static_cast<unsigned>(a));
}
inline int __clzll(long long a) {
  return std::countl_zero(static_cast<unsigned long long>(a));
}
inline int __ffs(int a) {
  return __builtin_ffs(a);
}
inline int __ffsll(long long a) {
  return __builtin_ffsll(a);
}
inline unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1) << (31 - i);
  return reversed;
}

// PRMT: nibble i of the selector names the byte; its bit 3 spreads that byte's sign instead.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = bytes >> (8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// 64 bits high:low, shifted; `_l` gives the upper half, `_r` the lower; `c` clamps the distance to 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned distance) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (distance & 31)) >> 32);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned distance) {
  return distance >= 32 ? low : __funnelshift_l(low, high, distance);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned distance) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (distance & 31));
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned distance) {
  return distance >= 32 ? high : __funnelshift_r(low, high, distance);
}

// ---- Integers
// ---------------------------------------------------------------------------------------------------

inline int __dp4a(int a, int b, int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return static_cast<int>(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
  return c;
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<int64_t>(a) * b) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}

#define LOWBIT_MIN_MAX(type)           \
  constexpr type min(type a, type b) { \
    return b < a ? b : a;              \
  }                                    \
  constexpr type max(type a, type b) { \
    return a < b ? b : a;              \
  }
LOWBIT_MIN_MAX(int)
LOWBIT_MIN_MAX(unsigned)
LOWBIT_MIN_MAX(long)
LOWBIT_MIN_MAX(unsigned long)
LOWBIT_MIN_MAX(long long)
LOWBIT_MIN_MAX(unsigned long long)
#undef LOWBIT_MIN_MAX
// A NaN loses against a number, as fminf and fmaxf have it.
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}

// ---- Floating point
// ---------------------------------------------------------------------------------------------

inline int __float_as_int(float a) {
  return std::bit_cast<int>(a);
}
inline unsigned __float_as_uint(float a) {
  return std::bit_cast<unsigned>(a);
}
inline float __int_as_float(int a) {
  return std::bit_cast<float>(a);
}
inline float __uint_as_float(unsigned a) {
  return std::bit_cast<float>(a);
}

inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return sqrtf(a);
}
inline float __frcp_rn(float a) {
  return 1.0f / a;
}
inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}
inline float rsqrtf(float a) {
  return 1.0f / sqrtf(a);
}
// The device's fast versions err by a few units in the last place; these do not, so tests need the tolerance.
inline float __expf(float a) {
  return expf(a);
}
inline float __logf(float a) {
  return logf(a);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float a) {
  return fminf(fmaxf(a, 0.0f), 1.0f);
}

// To an integer: beyond its range the nearest there is, NaN gives 0, as the device has it.
namespace lowbit::emulated {
inline int to_int(float a) {
  if (a != a) return 0;
  if (a >= 0x1p31f) return INT32_MAX;
  if (a < -0x1p31f) return INT32_MIN;
  return static_cast<int>(a);
}
}  // namespace lowbit::emulated

inline int __float2int_rn(float a) {
  return lowbit::emulated::to_int(nearbyintf(a));
}
inline int __float2int_rz(float a) {
  return lowbit::emulated::to_int(a);
}
inline int __float2int_rd(float a) {
  return lowbit::emulated::to_int(floorf(a));
}
inline int __float2int_ru(float a) {
  return lowbit::emulated::to_int(ceilf(a));
}
inline float __int2float_rn(int a) {
  return static_cast<float>(a);
}
inline float __uint2float_rn(unsigned a) {
  return static_cast<float>(a);
}
inline float __ll2float_rn(long long a) {
  return static_cast<float>(a);
}

// CUDA's headers have all of half and bfloat16 arithmetic for the host, except the fused multiply-add.
inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(fma(__half2float(a), static_cast<double>(__half2float(b)), __half2float(c)));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __double2bfloat16(
      fma(__bfloat162float(a), static_cast<double>(__bfloat162float(b)), __bfloat162float(c)));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}

// ---- Loads and stores with a hint
// -------------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
