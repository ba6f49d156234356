// How long a GEMV takes by what is known of its code and of the GPU: by this its partition is chosen. An
// estimate, not a measurement; the same model as benchmarks/cuda_report/estimate.py.
#pragma once

#include "cuda/bits/gemv.h"
#include "cuda/plan/architectures.h"

namespace lowbit::cuda {

struct Product {
  const Layer& layer;
  bool grouped;
  bool b1;
  int32_t per_token;  // columns
  int64_t tokens;
  int64_t multiprocessors;
  const Architecture& architecture;
};

// In clocks, without what no partition changes.
double cost_of(const Product& product, const Partition& partition);

}  // namespace lowbit::cuda
