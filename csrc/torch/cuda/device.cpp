#include "torch/cuda/device.h"

#include <algorithm>
#include <array>
#include <exception>
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
  aoti_torch_get_device_type(any_, &type_);
  aoti_torch_get_device_index(any_, &index_);
  // The tensors of the emulated device are the CPU's, which have no index.
  description_ = describe(check, std::max(index_, 0));
  check_torch(aoti_torch_create_cuda_guard(index_, &guard_), "create_cuda_guard");
  check_torch(aoti_torch_get_current_cuda_stream(index_, &stream_), "get_current_cuda_stream");
}

Gpu::~Gpu() {
  aoti_torch_delete_cuda_guard(guard_);
}

void Gpu::lend_matmul(int64_t tokens) {
  if (tokens <= LOWBIT_CUDA_MATMUL_TOKENS) return;
  // Only Python and torch's C++ know; python/lowbit/backends/cuda_flags.py answers. Without it nothing is
  // lent.
  StableIValue allowed = 0;
  if (torch_call_dispatcher("lowbit::fp16_accumulation", "", &allowed, kTorchVersion) != 0) return;
  if (static_cast<uint8_t>(allowed) != 0) return;
  description_.matmul = matmul;
  description_.matmul_context = this;
}

void Gpu::require_here(std::initializer_list<Tensor> tensors) const {
  for (const Tensor& tensor : tensors) {
    if (!tensor) continue;
    int32_t type = 0;
    int32_t index = 0;
    aoti_torch_get_device_type(tensor.handle(), &type);
    aoti_torch_get_device_index(tensor.handle(), &index);
    if (type == type_ && index == index_) continue;
    check_.fail("all tensors must be on cuda:" + std::to_string(index_) + "; found " + tensor.describe() +
                (type == type_ ? " on cuda:" + std::to_string(index) : " on another kind of device"));
  }
}

AtenTensorHandle Gpu::empty(std::initializer_list<int64_t> shape, Dtype dtype) const {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape.begin()[i] > 0 ? shape.begin()[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  check_torch(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.begin(), strides.data(),
                                       torch_code(dtype), type_, index_, &handle),
              "empty_strided");
  return handle;
}

AtenTensorHandle Gpu::matrix(const void* data, Dtype dtype, int64_t rows, int64_t columns, int64_t row_stride,
                             int64_t column_stride) const {
  const int64_t sizes[] = {rows, columns};
  const int64_t strides[] = {row_stride, column_stride};
  AtenTensorHandle handle = nullptr;
  check_torch(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes, strides, 0,
                                                 torch_code(dtype), type_, index_, &handle),
              "create_tensor_from_blob");
  return handle;
}

// aten::mm of fp16 with its sums and its result in fp32. Torch's current stream is the product's.
void Gpu::multiply(const lowbit_cuda_product& product) const {
  const auto& [a_rows, b_rows, inputs, a, b, c, stream] = product;
  OwnedTensor left(matrix(a, Dtype::kF16, a_rows, inputs, inputs, 1));
  OwnedTensor right(matrix(b, Dtype::kF16, inputs, b_rows, 1, inputs));
  OwnedTensor sums(matrix(c, Dtype::kF32, a_rows, b_rows, b_rows, 1));
  StableIValue stack[] = {
      reinterpret_cast<StableIValue>(left.release()), reinterpret_cast<StableIValue>(right.release()),
      static_cast<StableIValue>(torch_code(Dtype::kF32)), reinterpret_cast<StableIValue>(sums.release())};
  check_torch(torch_call_dispatcher("aten::mm", "dtype_out", stack, kTorchVersion), "mm");
  sums.reset(reinterpret_cast<AtenTensorHandle>(stack[0]));
}

lowbit_status Gpu::matmul(void* gpu, const lowbit_cuda_product* product) {
  auto* const self = static_cast<Gpu*>(gpu);
  try {
    self->multiply(*product);
    return LOWBIT_OK;
  } catch (const std::exception& error) {  // must not pass through C
    self->failure_ = std::string(": ") + error.what();
    return LOWBIT_DEVICE_FAILED;
  }
}

}  // namespace lowbit::torch_ops
