// How the warps of a GEMV divide the weight.
#pragma once

#include "cuda/plan/cost.h"

namespace lowbit::cuda {

inline constexpr int64_t kPassColumns = 16;  // B columns that share one reading of the weight

// The partition of least cost; among equals the one with fewest parts of a row, then the smallest block.
// Whole rows have integer sums, which no part changes. Elsewhere a result depends on the parts of its row, so
// the number of tokens has no say in them; how they go to warps and blocks is free.
//
// A function of its arguments, which is remembered: looking at all partitions is no work for every call.
Partition choose_partition(const Product& product);

}  // namespace lowbit::cuda
