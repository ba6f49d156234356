// Weights of scalar and vector codebooks as the GPU kernels have them: uint8 [words][16], what the repacking
// entry wrote, rounded up to whole words.
#pragma once

#include "lowbit_cuda.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

inline constexpr int64_t kWordBytes = 16;

// From the shape and dtype of `tables` [N][2^bits]; no pointers but theirs.
lowbit_cuda_codebook_scalar describe_scalar(const Checker& check, const Tensor& tables, int64_t in_features);
int64_t scalar_words(const Checker& check, const lowbit_cuda_codebook_scalar& weight);

// From the shape and dtype of `codebooks` [codebooks][256][vector_size]; no pointers but theirs.
lowbit_cuda_codebook_vector describe_vector(const Checker& check, const Tensor& codebooks,
                                            int64_t out_features, int64_t in_features);
int64_t vector_words(const Checker& check, const lowbit_cuda_codebook_vector& weight);

}  // namespace lowbit::torch_ops
