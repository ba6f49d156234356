// How the warps of a GEMV divide the weight.
#pragma once

#include "cuda/plan/cost.h"

namespace lowbit::cuda {

inline constexpr int64_t kPassColumns = 16;  // B columns that share one reading of the weight

// The partition of least cost; among equals the one with fewest splits of a row, then the smallest block.
// Whole rows have integer sums, which no split changes. Elsewhere a result depends on how its row is split,
// so the number of tokens has no part in that; how many rows share the columns is free.
//
// A function of its arguments, which is remembered: looking at all partitions is no work for every call.
Partition choose_partition(const Product& product);

}  // namespace lowbit::cuda
