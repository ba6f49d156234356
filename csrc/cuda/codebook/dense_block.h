// How a block divides the product with dense rows (cuda/codebook/dense.h).
#pragma once

#include <cstdint>

namespace lowbit::cuda::codebook {

inline constexpr int kDenseWarps = 8;   // of a block
inline constexpr int kDenseRows = 4;    // that share the loads of x
inline constexpr int kDenseTokens = 8;  // that share the loads of the weight
inline constexpr int kDenseSums = kDenseRows * kDenseTokens;

// Warps that share rows of so many inputs: each lane should have two octets.
inline constexpr int kDenseLaneInputs = 16;
inline int dense_warps(int64_t inputs) {
  int warps = 1;
  while (warps < kDenseWarps && inputs > warps * 32 * kDenseLaneInputs) warps *= 2;
  return warps;
}

}  // namespace lowbit::cuda::codebook
