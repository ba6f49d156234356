// What all products of the family end with.
#pragma once

#include "cuda/bits/epilogue.h"

namespace lowbit::cuda::codebook {

// y[token][row] = sum + bias[row], in y's dtype.
LOWBIT_DEVICE void store_sum(const Result& result, int64_t token, int64_t row, float sum) {
  if (result.bias != nullptr) sum += load_value(result.bias, result.bias_dtype, row);
  store_value(result.y, result.dtype, token * result.stride + row, sum);
}

}  // namespace lowbit::cuda::codebook
