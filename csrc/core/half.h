// Scalar fp16 and bf16 conversions, round to nearest even, subnormals and infinities exact, NaN stays NaN.
//
// Everything here has internal linkage on purpose: the header is included by files compiled for different
// instruction sets, and a shared inline symbol could be resolved to the copy with the widest instructions.
#pragma once

#include <cstdint>
#include <cstring>

#include "lowbit.h"

namespace lowbit {
namespace {

[[maybe_unused]] inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

[[maybe_unused]] inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

[[maybe_unused]] inline float bf16_to_float(uint16_t value) {
  return float_from_bits(static_cast<uint32_t>(value) << 16);
}

[[maybe_unused]] inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[maybe_unused]] inline float fp16_to_float(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t magnitude = value & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity or NaN; the hardware conversions quiet a NaN, and so do we
    const uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
    return float_from_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13) | quiet);
  }
  if (magnitude < 0x400u) {
    // Zero or subnormal: in the low bits of 0.5 the mantissa counts 2^-24, as it should. A product by a power
    // of two would start from an fp32 subnormal, which a host may have told the processor to read as zero.
    return float_from_bits(float_bits(float_from_bits(0x3f000000u | magnitude) - 0.5f) | sign);
  }
  return float_from_bits(sign | ((magnitude << 13) + 0x38000000u));
}

[[maybe_unused]] inline uint16_t float_to_fp16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or above
  if (magnitude < 0x38800000u) {
    // Subnormal result: adding 0.5 leaves value / 2^-24 in the low mantissa bits, rounded by the adder.
    const float shifted = float_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Element `index` of an array of any floating point dtype of the C interface.
[[maybe_unused]] inline float load_value(const void* data, lowbit_dtype dtype, int64_t index) {
  if (dtype == LOWBIT_F32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == LOWBIT_F16 ? fp16_to_float(bits) : bf16_to_float(bits);
}

[[maybe_unused]] inline void store_value(void* data, lowbit_dtype dtype, int64_t index, float value) {
  if (dtype == LOWBIT_F32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<uint16_t*>(data)[index] = dtype == LOWBIT_F16 ? float_to_fp16(value) : float_to_bf16(value);
  }
}

[[maybe_unused]] inline int64_t dtype_size(lowbit_dtype dtype) {
  return dtype == LOWBIT_F32 ? 4 : 2;
}

}  // namespace
}  // namespace lowbit
