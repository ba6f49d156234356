// Where a run's integers become floats.
#pragma once

#include <cstdint>

#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

// Everything about one run of one tile that does not depend on the token.
template <class Isa>
struct RunEnd {
  using I32 = typename Isa::I32;

  int radix_shift;         // between the two columns of a token
  int inactive_planes;     // planes not read: codes count 2^inactive_planes
  const float* w_scales;   // [64]; null: none, or one scale for the whole row, applied at the very end
  const int16_t* offsets;  // [64]; null: none

  // Adds kPerToken columns of one token to the floats of one row vector. x_sums: sums of the activation
  // codes.
  template <int kPerToken>
  LOWBIT_INLINE void add(const I32* columns, const int32_t* x_sums, float x_scale, int64_t row,
                         float* acc) const {
    I32 total = columns[0];
    if constexpr (kPerToken == 2) total = Isa::add(Isa::shift_left_by(total, radix_shift), columns[1]);
    if (inactive_planes != 0) total = Isa::shift_left_by(total, inactive_planes);
    auto value = Isa::to_float(total);
    if (offsets != nullptr) {
      int32_t x_sum = x_sums[0];
      if constexpr (kPerToken == 2) x_sum = (x_sum << radix_shift) + x_sums[1];
      const auto offset = Isa::to_float(Isa::widen_i16(offsets + row));
      value = Isa::fma(offset, Isa::fset1(static_cast<float>(x_sum)), value);
    }
    const auto scale = Isa::fset1(x_scale);
    const auto before = Isa::fload(acc + row);
    Isa::fstore(acc + row, w_scales == nullptr
                               ? Isa::fma(value, scale, before)
                               : Isa::fma(Isa::fmul(value, scale), Isa::fload(w_scales + row), before));
  }
};

}  // namespace
}  // namespace lowbit
