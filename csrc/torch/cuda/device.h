// The GPU that an operator runs on: its stream, its memory, and the calls of the C interface.
#pragma once

#include <initializer_list>

#include "lowbit_cuda.h"
#include "torch/cuda/shim.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

// Makes the GPU of a tensor the current one while it lives, and knows torch's current stream on it.
class Gpu {
 public:
  Gpu(const Checker& check, const Tensor& tensor);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu();

  // Lends the kernels torch's matrix product for so many tokens, unless the user lets it sum in fp16: the
  // operands fill the range of fp16, and `high` promises more than its 11 bits. What torch rounds between the
  // parts of a divided sum (allow_fp16_reduced_precision_reduction) is of the result's type, fp32 here.
  void lend_matmul(int64_t tokens);

  const lowbit_cuda_device* description() const { return &description_; }
  void* stream() const { return stream_; }

  // The dispatcher brings a call here for one argument on a GPU; the kernels need all of them on the same
  // one. Absent tensors are none.
  void require_here(std::initializer_list<Tensor> tensors) const;

  // New tensors, for an OwnedTensor.
  AtenTensorHandle empty(std::initializer_list<int64_t> shape, Dtype dtype) const;

  void status(lowbit_status status) const {
    if (status != LOWBIT_OK) check_.fail(lowbit_cuda_last_error() + failure_);
  }

 private:
  // The matrix product that the kernels leave to torch; `gpu` is a Gpu.
  static lowbit_status matmul(void* gpu, const lowbit_cuda_product* product);
  void multiply(const lowbit_cuda_product& product) const;

  // Memory of the workspace as a matrix.
  AtenTensorHandle matrix(const void* data, Dtype dtype, int64_t rows, int64_t columns, int64_t row_stride,
                          int64_t column_stride) const;

  const Checker& check_;
  AtenTensorHandle any_;
  int32_t type_ = 0;
  int32_t index_ = 0;
  CUDAGuardHandle guard_ = nullptr;
  void* stream_ = nullptr;
  lowbit_cuda_device description_;
  std::string failure_;  // of torch's matrix product
};

// What the kernels want of their workspace; torch promises less.
inline constexpr size_t kAlignment = 256;

inline void* align_up(void* memory) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory) + kAlignment - 1) / kAlignment *
                                 kAlignment);
}

// Computes y after all other checks: size(tokens, &bytes) says how much memory run(x, bias, y, memory, bytes)
// needs for itself, which queues the kernels. `out` is the last argument of an _out operator and empty for a
// functional one.
template <typename Size, typename Run>
void compute_on(const Gpu& gpu, const Checker& check, Arguments& args, const Tensor& x, const Tensor& bias,
                const Tensor& out, int64_t out_features, Size&& size, Run&& run) {
  const lowbit_vector bias_view = check.bias(bias, out_features);
  if (out) check.expect_output(out, x, out_features);
  Result y(x, out_features, out);
  if (x.rows() > 0) {
    const Input input(x);
    size_t bytes = 0;
    gpu.status(size(x.rows(), &bytes));
    // torch reuses this memory only behind the kernels in the same stream.
    const OwnedTensor workspace(gpu.empty({static_cast<int64_t>(bytes + kAlignment)}, Dtype::kU8));
    void* const memory = align_up(workspace.get().data());
    gpu.status(run(&input.view(), &bias_view, &y.view(), memory, bytes));
  }
  y.finish(args.stack());
}

}  // namespace lowbit::torch_ops
