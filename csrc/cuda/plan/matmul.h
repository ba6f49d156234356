// How products of very many tokens go to the caller's matrix product: tiles of the weight's rows are expanded
// to fp16, one after the other, in the same memory.
#pragma once

#include <cstdint>

#include "lowbit_cuda.h"

namespace lowbit::cuda {

// More tokens than this: the weight is expanded once for all of them; not yet measured.
inline constexpr int64_t kMatmulTokens = LOWBIT_CUDA_MATMUL_TOKENS;

// Rows of the weight that are expanded at a time, of `rows`, for products of so many tokens at once.
int64_t matmul_tile_rows(int64_t in_features, int64_t rows, int64_t tokens, const lowbit_cuda_device& device);

}  // namespace lowbit::cuda
