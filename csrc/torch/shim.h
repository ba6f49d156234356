// The few C functions of libtorch_cpu that the operators call, declared here so that compiling them needs no
// torch.
//
// They are part of torch's stable C interface: names, argument types and meanings stay the same from
// torch 2.10 on (torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h document them).
// Nothing else of torch is used: no C++ symbol, no inline header code, no struct whose layout could change.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct AtenTensorOpaque;  // an at::Tensor on the heap
struct TorchLibraryOpaque;
struct StableListOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableListHandle = StableListOpaque*;

// One argument or result of an operator in 64 bits. An int is itself; a tensor is an owning AtenTensorHandle;
// a list is an owning StableListHandle; an optional is null or a pointer, made with `new`, to the value's
// StableIValue.
using StableIValue = uint64_t;
// Takes ownership of num_inputs values and leaves num_outputs values in their place.
using BoxedKernel = void (*)(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);

// Zero is success.
using AOTITorchError = int32_t;

AOTITorchError aoti_torch_library_init_fragment(const char* ns, const char* file, uint32_t line,
                                                TorchLibraryHandle* result);
AOTITorchError aoti_torch_library_init_impl(const char* ns, const char* dispatch_key, const char* file,
                                            uint32_t line, TorchLibraryHandle* result);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle library, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle library, const char* name, BoxedKernel kernel,
                                  uint64_t build_version);

AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** borrowed_sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** borrowed_strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* device_type);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* device_index);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** borrowed_data);
AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* owning_result);
AOTITorchError aoti_torch_copy_(AtenTensorHandle self, AtenTensorHandle src, int32_t non_blocking);
AOTITorchError aoti_torch_create_tensor_from_blob(void* data, int64_t dim, const int64_t* sizes,
                                                  const int64_t* strides, int64_t storage_offset,
                                                  int32_t dtype, int32_t device_type, int32_t device_index,
                                                  AtenTensorHandle* owning_result);
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);

// Calls an operator of torch. Takes ownership of the arguments on the stack, as a BoxedKernel does.
AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack,
                                     uint64_t build_version);

int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_uint8();
int32_t aoti_torch_dtype_int16();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_uint16();

// What the last call that failed on this thread had to say. Torch has it from 2.13 on; null before.
[[gnu::weak]] const char* torch_exception_get_what_without_backtrace();

AOTITorchError torch_list_size(StableListHandle list, size_t* size);
AOTITorchError torch_list_get_item(StableListHandle list, size_t index, StableIValue* element);
AOTITorchError torch_delete_list(StableListHandle list);
AOTITorchError torch_get_num_threads(uint32_t* threads);
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size,
                                  void (*body)(int64_t begin, int64_t end, void* context), void* context);

}  // extern "C"

namespace lowbit::torch_ops {

// The interface version these declarations were taken from, as torch encodes versions: 2.10.0.
inline constexpr uint64_t kTorchVersion = 0x020a'0000'0000'0000;

}  // namespace lowbit::torch_ops
