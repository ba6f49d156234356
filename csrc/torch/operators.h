// The boxed kernels of each family, for the registration in library.cpp.
#pragma once

#include "torch/tensor.h"

namespace lowbit::torch_ops {

template <Form kForm>
void signs_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <Form kForm>
void planes_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <Form kForm>
void codebook_channel_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <Form kForm>
void codebook_scalar_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
template <Form kForm>
void codebook_vector_linear(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);

}  // namespace lowbit::torch_ops

// Instantiates one of them in its three forms.
#define LOWBIT_INSTANTIATE(kernel)                                            \
  template void kernel<Form::kFunctional>(StableIValue*, uint64_t, uint64_t); \
  template void kernel<Form::kOut>(StableIValue*, uint64_t, uint64_t);        \
  template void kernel<Form::kWide>(StableIValue*, uint64_t, uint64_t);
