// One activation to its integer code: python/lowbit/formats/activations.py, operation by operation.
//
//   scale = amax / max_code      inverse = max_code / amax
//   bits == 0:  v = rint(z * inverse)
//   bits == A:  v = 2 floor((z * inverse + 2^A) / 2) - max_code      odd; max_code = 2^A - 1
//
// Neither needs a clamp: |z * inverse| exceeds max_code by its rounding only, far less than the half (the
// whole, with bits == A) that would make it another code.
#pragma once

#include <cfloat>
#include <cstdint>

#include "cuda/activations/prologue.h"
#include "cuda/device.h"

namespace lowbit::cuda {

inline constexpr uint32_t kInfinityBits = 0x7f800000u;
inline constexpr uint32_t kNanBits = 0x7fc00000u;

// Magnitude as an integer of the same order; NaN comes above infinity.
LOWBIT_DEVICE uint32_t magnitude_bits(float value) {
  return __float_as_uint(value) & 0x7fffffffu;
}

class Quantizer {
 public:
  LOWBIT_DEVICE explicit Quantizer(const ActivationKind& kind)
      : bits_(kind.bits),
        max_code_(kind.bits > 0 ? static_cast<float>((1 << kind.bits) - 1)
                                : (kind.precision == LOWBIT_FAST ? 127.0f : 32639.0f)) {}

  // For values of which the largest magnitude is amax, in bits; `live`: the whole token is finite.
  LOWBIT_DEVICE void set_range(uint32_t amax_bits, bool live) {
    const float amax = __uint_as_float(amax_bits);
    inverse_ = max_code_ / amax;
    scale_ = amax / max_code_;
    usable_ = live && inverse_ <= FLT_MAX;
    if (!usable_) scale_ = live ? 0.0f : __uint_as_float(kNanBits);
  }

  LOWBIT_DEVICE float scale() const { return scale_; }
  LOWBIT_DEVICE bool usable() const { return usable_; }
  LOWBIT_DEVICE int max_code() const { return static_cast<int>(max_code_); }

  // Of an input that exists; padding has code 0, which is not among bipolar ones.
  LOWBIT_DEVICE int code(float z) const {
    if (!usable_) return 0;
    const float steps = z * inverse_;
    if (bits_ == 0) return __float2int_rn(steps);
    return 2 * static_cast<int>(floorf((steps + (max_code_ + 1.0f)) * 0.5f)) - static_cast<int>(max_code_);
  }

 private:
  int32_t bits_;
  float max_code_;
  float inverse_ = 0.0f;
  float scale_ = 0.0f;
  bool usable_ = false;
};

}  // namespace lowbit::cuda
