// Rows in fp32 times a panel of tokens, [cols][tokens]: a value of a row meets two vectors of tokens, so what
// is loaded for a multiply-add is little, and the panel may come from a far cache.
//
//            tokens  0 .. kLanes - 1 | .. 2 kLanes - 1
//   row 0               sums             sums           += weight[0][k] * x[k]
//   ...                                                    chains stay in registers
//   row kRows - 1       sums             sums
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/codebook/dense_kernel.h"
#include "cpu/isa/inline.h"

namespace lowbit::codebook {

constexpr int kPanelVectors = 2;

// kRows rows from `row` on, for the first kVectors vectors of tokens.
template <class V, int kVectors, int kRows>
void panel_rows(const PanelWeight& weight, int64_t row, const float* x, float* sums) {
  using F32 = typename V::F32;
  constexpr int64_t kTokens = kPanelVectors * V::kLanes;
  const float* const rows = weight.data + row * weight.stride;
  sums += row * kTokens;
  std::fill(sums, sums + kRows * kTokens, 0.0f);
  for (int64_t k = 0; k < weight.cols;) {
    F32 chain[kRows][kVectors];
    for (auto& of_row : chain) {
      for (F32& c : of_row) c = V::fset1(0.0f);
    }
    for (const int64_t last = std::min(k + kChain, weight.cols); k < last; ++k, x += kTokens) {
      F32 a[kVectors];
      for (int v = 0; v < kVectors; ++v) a[v] = V::fload(x + v * V::kLanes);
      for (int r = 0; r < kRows; ++r) {
        const F32 w = V::fset1(rows[r * weight.stride + k]);
        for (int v = 0; v < kVectors; ++v) chain[r][v] = V::fma(w, a[v], chain[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* const sum = sums + r * kTokens + v * V::kLanes;
        V::fstore(sum, V::fadd(V::fload(sum), chain[r][v]));
      }
    }
  }
}

template <class V, int kVectors>
void panel_range(const PanelWeight& weight, const float* x, float* sums) {
  constexpr int kMostRows = V::kLanes == 16 ? 12 : 6;  // their chains leave registers for a[] and w
  int64_t r = 0;
  for (; r + kMostRows <= weight.rows; r += kMostRows) panel_rows<V, kVectors, kMostRows>(weight, r, x, sums);
  for (; r + 2 <= weight.rows; r += 2) panel_rows<V, kVectors, 2>(weight, r, x, sums);
  if (r < weight.rows) panel_rows<V, kVectors, 1>(weight, r, x, sums);
}

template <class V>
void multiply_panel(const PanelWeight& weight, const float* x, int64_t tokens, float* sums) {
  static_assert(kPanelVectors == 2);
  tokens > V::kLanes ? panel_range<V, 2>(weight, x, sums) : panel_range<V, 1>(weight, x, sums);
}

}  // namespace lowbit::codebook
