// The operators that lay weights out for the GPU kernels.
#pragma once

#include "torch/shim.h"

namespace lowbit::torch_ops {

void cuda_repack_bits(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void cuda_restore_bits(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void cuda_repack_scalar(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void cuda_restore_scalar(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void cuda_repack_vector(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void cuda_restore_vector(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);

struct Layout {
  const char* name;
  const char* signature;
  BoxedKernel kernel;
};

inline constexpr Layout kLayouts[] = {
    {"cuda_repack_bits", "(Tensor planes, int in_features, bool one_bit_digits) -> Tensor", cuda_repack_bits},
    {"cuda_restore_bits", "(Tensor tiles, int in_features, int out_features) -> Tensor", cuda_restore_bits},
    {"cuda_repack_scalar", "(Tensor planes, Tensor tables, int in_features) -> Tensor", cuda_repack_scalar},
    {"cuda_restore_scalar", "(Tensor packed, Tensor tables, int in_features) -> Tensor", cuda_restore_scalar},
    {"cuda_repack_vector", "(Tensor codes, Tensor codebooks, int in_features) -> Tensor", cuda_repack_vector},
    {"cuda_restore_vector", "(Tensor packed, Tensor codebooks, int in_features, int out_features) -> Tensor",
     cuda_restore_vector},
};

}  // namespace lowbit::torch_ops
