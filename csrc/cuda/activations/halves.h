// Values of any range as fp16: a power of two brings the largest of them to 2^14 and more, below 2^15.
#pragma once

#include "cuda/activations/octets.h"

namespace lowbit::cuda {

class HalfRange {
 public:
  // The bits of the largest magnitude; one below 2^-112, whose factor would be infinite, counts as that.
  LOWBIT_DEVICE explicit HalfRange(uint32_t largest) {
    constexpr int kTop = 14, kBias = 127, kLeast = 15;
    const int exponent = max(static_cast<int>(largest >> 23), kLeast);
    factor_ = __uint_as_float(static_cast<uint32_t>(2 * kBias + kTop - exponent) << 23);
    inverse_ = __uint_as_float(static_cast<uint32_t>(exponent - kTop) << 23);
  }

  LOWBIT_DEVICE float factor() const { return factor_; }
  LOWBIT_DEVICE float inverse() const { return inverse_; }

  // Eight of them, times the factor.
  LOWBIT_DEVICE uint4 pack(const float (&values)[kOctet]) const {
    uint32_t words[kOctet / 2];
#pragma unroll
    for (int i = 0; i < kOctet / 2; ++i) {
      words[i] = bits(values[2 * i]) | bits(values[2 * i + 1]) << 16;
    }
    return {words[0], words[1], words[2], words[3]};
  }

 private:
  LOWBIT_DEVICE uint32_t bits(float value) const {
    return __half_as_ushort(__float2half_rn(value * factor_));
  }

  float factor_, inverse_;
};

}  // namespace lowbit::cuda
