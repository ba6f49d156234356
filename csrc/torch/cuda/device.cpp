#include "torch/cuda/device.h"

#include <algorithm>
#include <array>
#include <vector>

namespace lowbit::torch_ops {
namespace {

// What the runtime says of a GPU, asked for once. A race asks twice and writes the same.
lowbit_cuda_device describe(const Checker& check, int32_t index) {
  constexpr int32_t kCached = 64;
  static std::array<lowbit_cuda_device, kCached> cache{};
  if (index < kCached && cache[index].multiprocessors != 0) return cache[index];
  lowbit_cuda_device device{};
  if (lowbit_cuda_get_device(index, &device) != LOWBIT_OK) check.fail(lowbit_cuda_last_error());
  if (index < kCached) cache[index] = device;
  return device;
}

}  // namespace

Gpu::Gpu(const Checker& check, const Tensor& tensor) : check_(check), any_(tensor.handle()) {
  aoti_torch_get_device_index(any_, &index_);
  // The tensors of the emulated device are the CPU's, which have no index.
  description_ = describe(check, std::max(index_, 0));
  check_torch(aoti_torch_create_cuda_guard(index_, &guard_), "create_cuda_guard");
  check_torch(aoti_torch_get_current_cuda_stream(index_, &stream_), "get_current_cuda_stream");
}

Gpu::~Gpu() {
  aoti_torch_delete_cuda_guard(guard_);
}

void Gpu::require_here(std::initializer_list<Tensor> tensors) const {
  int32_t expected_type = 0;
  aoti_torch_get_device_type(any_, &expected_type);
  for (const Tensor& tensor : tensors) {
    if (!tensor) continue;
    int32_t type = 0;
    int32_t index = 0;
    aoti_torch_get_device_type(tensor.handle(), &type);
    aoti_torch_get_device_index(tensor.handle(), &index);
    if (type == expected_type && index == index_) continue;
    check_.fail("all tensors must be on cuda:" + std::to_string(index_) + "; found " + tensor.describe() +
                (type == expected_type ? " on cuda:" + std::to_string(index) : " on another kind of device"));
  }
}

AtenTensorHandle Gpu::empty(std::initializer_list<int64_t> shape, Dtype dtype) const {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape.begin()[i] > 0 ? shape.begin()[i] : 1;
  }
  int32_t device_type = 0;
  aoti_torch_get_device_type(any_, &device_type);
  AtenTensorHandle handle = nullptr;
  check_torch(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.begin(), strides.data(),
                                       torch_code(dtype), device_type, index_, &handle),
              "empty_strided");
  return handle;
}

}  // namespace lowbit::torch_ops
