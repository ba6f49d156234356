// Tensors, argument stacks and checks of the operators, over the C functions of shim.h.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lowbit.h"
#include "torch/shim.h"

namespace lowbit::torch_ops {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A failing call of libtorch means a broken invariant, not a wrong argument: torch has printed the reason.
void check_torch(AOTITorchError error, const char* call);

enum class Dtype { kF32, kF16, kBF16, kU8, kU16, kI16, kI32, kI64, kBool, kOther };
int32_t torch_code(Dtype dtype);
bool is_float(Dtype dtype);         // one of the three floating point types that the kernels read
lowbit_dtype c_dtype(Dtype dtype);  // of a type for which is_float holds
int64_t element_size(lowbit_dtype dtype);

// A torch tensor, or nothing; borrowed. Sizes and strides stay valid while the tensor lives.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle handle);

  explicit operator bool() const { return handle_ != nullptr; }
  AtenTensorHandle handle() const { return handle_; }

  int64_t dim() const { return dim_; }
  // Negative positions count from the end, as in Python.
  int64_t size(int64_t i) const { return sizes_[i < 0 ? i + dim_ : i]; }
  int64_t stride(int64_t i) const { return strides_[i < 0 ? i + dim_ : i]; }
  const int64_t* sizes() const { return sizes_; }
  Dtype dtype() const { return dtype_; }
  void* data() const;
  const char* bytes() const { return static_cast<const char*>(data()); }
  bool contiguous() const;

  // All dimensions but the last seen as one: the product of their sizes, and the distance between rows if one
  // distance serves all of them and rows have no gaps.
  int64_t rows() const;
  std::optional<int64_t> row_stride() const;

  std::string describe() const;  // "float16 [3, 4] with strides [1, 3]"

 private:
  AtenTensorHandle handle_ = nullptr;
  int64_t dim_ = 0;
  const int64_t* sizes_ = nullptr;
  const int64_t* strides_ = nullptr;
  Dtype dtype_ = Dtype::kOther;
};

// A tensor made here, given back when this dies, or nothing.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  explicit OwnedTensor(AtenTensorHandle owned) : tensor_(owned) {}
  OwnedTensor(const OwnedTensor&) = delete;
  OwnedTensor& operator=(const OwnedTensor&) = delete;
  ~OwnedTensor() { reset(nullptr); }

  void reset(AtenTensorHandle owned) {
    if (tensor_) aoti_torch_delete_tensor_object(tensor_.handle());
    tensor_ = owned == nullptr ? Tensor() : Tensor(owned);
  }
  const Tensor& get() const { return tensor_; }
  AtenTensorHandle release() { return std::exchange(tensor_, Tensor()).handle(); }

 private:
  Tensor tensor_;
};

// A new contiguous tensor [leading dimensions of `like` ..., last] on its device, for an OwnedTensor.
AtenTensorHandle empty_rows(const Tensor& like, int64_t last, Dtype dtype);

// Reads an operator's arguments in schema order. They belong to this object, which frees them when it dies.
class Arguments {
 public:
  explicit Arguments(StableIValue* stack) : stack_(stack) {}
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;
  ~Arguments();

  Tensor tensor();
  Tensor optional_tensor();
  int64_t integer();
  double number();
  std::vector<int64_t> integers();
  std::vector<Tensor> tensors();           // Tensor[]
  std::vector<Tensor> optional_tensors();  // Tensor?[]

  // Where results go; only once no argument is needed any more.
  StableIValue* stack() { return stack_; }

 private:
  enum class Kind : uint8_t { kPlain, kTensor, kOptionalTensor, kIntegers, kTensors, kOptionalTensors };
  static constexpr int kMaxArguments = 16;

  StableIValue read(Kind kind);

  StableIValue* stack_;
  int count_ = 0;
  // Copies: results overwrite the stack.
  StableIValue values_[kMaxArguments];
  Kind kinds_[kMaxArguments];
};

// Argument checks of one operator. All tensors are on the CPU already: the dispatcher would have picked
// another device's kernel (or none, with a message) otherwise.
class Checker {
 public:
  explicit Checker(const char* op) : op_(op) {}
  [[noreturn]] void fail(const std::string& message) const;
  void require(bool ok, const char* message) const {
    if (!ok) fail(message);
  }
  // A contiguous tensor of exactly this dtype and shape.
  void expect(const Tensor& tensor, const char* name, Dtype dtype,
              std::initializer_list<int64_t> shape) const;
  // The same with any of the three floating point types.
  void expect_float(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) const;
  // x: floating point, at least one dimension, the last of size in_features.
  void expect_input(const Tensor& x, int64_t in_features) const;
  // out: x's dtype and leading dimensions, and a last dimension of out_features.
  void expect_output(const Tensor& out, const Tensor& x, int64_t out_features) const;
  lowbit_precision precision(int64_t value) const;
  // An absent bias is a null vector.
  lowbit_vector bias(const Tensor& tensor, int64_t out_features) const;
  void status(lowbit_status status) const;

 private:
  const char* op_;
};

// x as rows for the kernels: borrowed where its strides allow, else copied once.
class Input {
 public:
  explicit Input(const Tensor& x);
  const lowbit_input& view() const { return view_; }
  bool is_borrowed() const { return !copy_.get(); }

 private:
  OwnedTensor copy_;
  lowbit_input view_;
};

// y: a new tensor, or the caller's `out`, through a contiguous copy where its strides or an overlap with x
// need one.
class Result {
 public:
  // `out` is empty for the functional operator.
  Result(const Tensor& x, int64_t out_features, const Tensor& out);
  const lowbit_output& view() const { return view_; }
  // Whether the kernel writes where the result will be read.
  bool is_in_place() const { return !out_ || !buffer_.get(); }
  // Leaves the operator's results on the stack.
  void finish(StableIValue* stack);

 private:
  Tensor out_;
  OwnedTensor buffer_;
  lowbit_output view_;
};

// Lets the kernels run on the threads torch would use; called before each of them.
void follow_torch_threads();

}  // namespace lowbit::torch_ops
