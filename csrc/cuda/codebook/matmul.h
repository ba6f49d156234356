// Products of very many tokens: rows of the weight become fp16 in the workspace, a tile of them at a time,
// and the matrix product that the caller has multiplies them, as in cuda/bits/matmul.cu.
#pragma once

#include "cuda/codebook/scalar.h"
#include "cuda/codebook/vector.h"

namespace lowbit::cuda::codebook {

// Expects the staged activations of the previous launch. Outliers are added to their rows.
void product_matmul(const ScalarWeight& weight, const cuda::HalfColumns& x, const Result& result,
                    const lowbit_cuda_device& device, Stream stream);
// For vectors that have halves.
void product_matmul(const VectorWeight& weight, const cuda::HalfColumns& x, const Result& result,
                    const lowbit_cuda_device& device, Stream stream);

}  // namespace lowbit::cuda::codebook
