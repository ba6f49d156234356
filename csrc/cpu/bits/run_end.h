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

  // Adds kPerToken columns of one token, from total[.][column] on, to the floats of kRows row vectors, from
  // the one at `row` on. x_sums: sums of the activation codes. What most weights lack is asked for once, not
  // for every vector.
  template <int kPerToken, int kRows, int kColumns>
  LOWBIT_INLINE void add(const I32 (&total)[kRows][kColumns], int column, const int32_t* x_sums,
                         float x_scale, int64_t row, float* acc) const {
    if (inactive_planes != 0 || offsets != nullptr) {
      add_rows<kPerToken, kAny>(total, column, x_sums, x_scale, row, acc);
    } else if (w_scales != nullptr) {
      add_rows<kPerToken, kScaled>(total, column, x_sums, x_scale, row, acc);
    } else {
      add_rows<kPerToken, kPlain>(total, column, x_sums, x_scale, row, acc);
    }
  }

 private:
  enum Kind { kPlain, kScaled, kAny };

  template <int kPerToken, Kind kKind, int kRows, int kColumns>
  LOWBIT_INLINE void add_rows(const I32 (&total)[kRows][kColumns], int column, const int32_t* x_sums,
                              float x_scale, int64_t row, float* acc) const {
    const auto scale = Isa::fset1(x_scale);
    for (int r = 0; r < kRows; ++r, row += Isa::kLanes) {
      I32 sum = total[r][column];
      if constexpr (kPerToken == 2)
        sum = Isa::add(Isa::shift_left_by(sum, radix_shift), total[r][column + 1]);
      if constexpr (kKind == kAny) sum = Isa::shift_left_by(sum, inactive_planes);
      auto value = Isa::to_float(sum);
      if constexpr (kKind == kAny) {
        if (offsets != nullptr) {
          int32_t x_sum = x_sums[0];
          if constexpr (kPerToken == 2) x_sum = (x_sum << radix_shift) + x_sums[1];
          const auto offset = Isa::to_float(Isa::widen_i16(offsets + row));
          value = Isa::fma(offset, Isa::fset1(static_cast<float>(x_sum)), value);
        }
      }
      const auto before = Isa::fload(acc + row);
      Isa::fstore(acc + row, kKind == kPlain || w_scales == nullptr
                                 ? Isa::fma(value, scale, before)
                                 : Isa::fma(Isa::fmul(value, scale), Isa::fload(w_scales + row), before));
    }
  }
};

}  // namespace
}  // namespace lowbit
