// The boxed kernels of each family, for the registration in library.cpp. kOut: the twin that writes to `out`.
#pragma once

#include "torch/shim.h"

namespace lowbit::torch_ops {

template <bool kOut>
void signs_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void planes_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void codebook_channel_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void codebook_scalar_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void codebook_vector_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void siblings_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <bool kOut>
void attention(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);

}  // namespace lowbit::torch_ops

// Instantiates one of them in both forms.
#define LOWBIT_INSTANTIATE(kernel)                                \
  template void kernel<false>(StableIValue*, uint64_t, uint64_t); \
  template void kernel<true>(StableIValue*, uint64_t, uint64_t);
