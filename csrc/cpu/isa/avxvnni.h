// 8 lanes: AVX2 plus the VEX-encoded byte products of AVX-VNNI.
#pragma once

#include "cpu/isa/avx2.h"

namespace lowbit::isa {

struct AvxVnni : Vectors256<AvxVnni> {
  static constexpr bool kFullByteDot = true;
  static constexpr int64_t kSumLimit = INT32_MAX;

  using Sum = __m256i;

  static LOWBIT_INLINE Sum sum_zero() { return _mm256_setzero_si256(); }
  static LOWBIT_INLINE Sum dot(Sum sum, I32 u, I32 x) {
    sum = _mm256_dpbusd_avx_epi32(sum, u, x);
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
};

}  // namespace lowbit::isa
