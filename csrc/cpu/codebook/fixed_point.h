// Scale of a table written in three digits (see tables_kernel.h), shared by all instruction sets.
#pragma once

#include "cpu/isa/inline.h"

namespace lowbit::codebook {

template <int kDigitBits>
struct FixedPoint {
  static constexpr int kHalf = 1 << (3 * kDigitBits - 1);
  static constexpr int kLargest = kHalf - 4;
  float step, inverse;

  // The largest entry times `inverse`, both rounded, may exceed kLargest by 1 and must not reach kHalf. The
  // floor keeps the inverse finite: entries below 1e-30 are zero for all purposes of an fp32 sum.
  LOWBIT_INLINE explicit FixedPoint(float amax) {
    const float largest = amax > 1e-30f ? amax : 1e-30f;
    step = largest / kLargest;
    inverse = kLargest / largest;
  }
};

}  // namespace lowbit::codebook
