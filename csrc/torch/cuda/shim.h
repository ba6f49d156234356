// The C functions of libtorch_cuda that the operators call, declared as those of libtorch_cpu are in
// torch/shim.h.
#pragma once

#include "torch/shim.h"

extern "C" {

struct CUDAGuardOpaque;
using CUDAGuardHandle = CUDAGuardOpaque*;

AOTITorchError aoti_torch_create_cuda_guard(int32_t device_index, CUDAGuardHandle* owning_result);
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle guard);
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

}  // extern "C"
