#include "torch/tensor.h"

#include <array>
#include <cstring>
#include <stdexcept>

namespace lowbit::torch_ops {
namespace {

// torch's own numbers of the dtypes, asked for once: they are not part of its interface.
const std::array<int32_t, 9>& torch_codes() {
  static const std::array<int32_t, 9> codes = {
      aoti_torch_dtype_float32(), aoti_torch_dtype_float16(), aoti_torch_dtype_bfloat16(),
      aoti_torch_dtype_uint8(),   aoti_torch_dtype_uint16(),  aoti_torch_dtype_int16(),
      aoti_torch_dtype_int32(),   aoti_torch_dtype_int64(),   aoti_torch_dtype_bool()};
  return codes;
}

Dtype dtype_of(int32_t code) {
  const auto& codes = torch_codes();
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] == code) return static_cast<Dtype>(i);
  }
  return Dtype::kOther;
}

const char* name_of(Dtype dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "uint8", "uint16",
                                    "int16",   "int32",   "int64",    "bool",  "other dtype"};
  return kNames[static_cast<int>(dtype)];
}

std::string list(const int64_t* values, int64_t count) {
  std::string text = "[";
  for (int64_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}

bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  if (tensor.dim() != static_cast<int64_t>(shape.size())) return false;
  const int64_t* size = tensor.sizes();
  for (int64_t expected : shape) {
    if (*size++ != expected) return false;
  }
  return true;
}

// One past the last byte of a tensor that is not empty.
const char* end_of(const Tensor& tensor) {
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  return tensor.bytes() + (last + 1) * element_size(c_dtype(tensor.dtype()));
}

// Whether rows of `out` lie on other rows of x. The kernels read and write many tokens pass by pass, so only
// a row's own place is free by the time it is written.
bool crosses(const Tensor& x, const Tensor& out) {
  if (x.rows() == 0 || x.size(-1) == 0 || out.size(-1) == 0) return false;
  if (x.bytes() == out.bytes() && x.row_stride() && x.row_stride() == out.row_stride()) return false;
  return x.bytes() < end_of(out) && out.bytes() < end_of(x);
}

}  // namespace

void check_torch(AOTITorchError error, const char* call) {
  if (error == 0) return;
  std::string sentence = std::string("lowbit: torch's ") + call + " failed";
  if (torch_exception_get_what_without_backtrace != nullptr) {
    sentence = sentence + ": " + torch_exception_get_what_without_backtrace();
  }
  throw std::runtime_error(sentence);
}

int32_t torch_code(Dtype dtype) {
  return torch_codes()[static_cast<int>(dtype)];
}

bool is_float(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

lowbit_dtype c_dtype(Dtype dtype) {
  return dtype == Dtype::kF32 ? LOWBIT_F32 : dtype == Dtype::kF16 ? LOWBIT_F16 : LOWBIT_BF16;
}

int64_t element_size(lowbit_dtype dtype) {
  return dtype == LOWBIT_F32 ? 4 : 2;
}

// ---- Tensor ----

Tensor::Tensor(AtenTensorHandle handle) : handle_(handle) {
  // These only read fields; an error code would mean that the handle is no tensor.
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
  int32_t code = 0;
  aoti_torch_get_dim(handle_, &dim_);
  aoti_torch_get_sizes(handle_, &sizes);
  aoti_torch_get_strides(handle_, &strides);
  aoti_torch_get_dtype(handle_, &code);
  sizes_ = sizes;
  strides_ = strides;
  dtype_ = dtype_of(code);
}

void* Tensor::data() const {
  void* pointer = nullptr;
  check_torch(aoti_torch_get_data_ptr(handle_, &pointer), "data_ptr");
  return pointer;
}

bool Tensor::contiguous() const {
  int64_t expected = 1;
  bool dense = true;
  for (int64_t i = dim_ - 1; i >= 0; --i) {
    if (sizes_[i] == 0) return true;
    if (sizes_[i] != 1 && strides_[i] != expected) dense = false;
    expected *= sizes_[i];
  }
  return dense;
}

int64_t Tensor::rows() const {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < dim_; ++i) rows *= sizes_[i];
  return rows;
}

std::optional<int64_t> Tensor::row_stride() const {
  if (size(-1) > 1 && stride(-1) != 1) return std::nullopt;
  int64_t count = 1;
  int64_t distance = size(-1);
  for (int64_t i = dim_ - 2; i >= 0; --i) {
    if (sizes_[i] == 1) continue;
    if (count == 1) {
      distance = strides_[i];
    } else if (strides_[i] != distance * count) {
      return std::nullopt;
    }
    count *= sizes_[i];
  }
  return distance;
}

std::string Tensor::describe() const {
  std::string text = std::string(name_of(dtype_)) + " " + list(sizes_, dim_);
  if (!contiguous()) text += " with strides " + list(strides_, dim_);
  return text;
}

AtenTensorHandle empty_rows(const Tensor& like, int64_t last, Dtype dtype) {
  const int64_t dim = like.dim();
  // On the stack for any shape met in practice: this is every call's path.
  constexpr int64_t kInline = 8;
  std::array<int64_t, 2 * kInline> small;
  std::vector<int64_t> large(dim > kInline ? 2 * dim : 0);
  int64_t* sizes = dim > kInline ? large.data() : small.data();
  int64_t* strides = sizes + dim;
  int64_t stride = 1;
  for (int64_t i = dim - 1; i >= 0; --i) {
    sizes[i] = i == dim - 1 ? last : like.size(i);
    strides[i] = stride;
    stride *= sizes[i] > 0 ? sizes[i] : 1;
  }
  int32_t device_type = 0;
  int32_t device_index = 0;
  aoti_torch_get_device_type(like.handle(), &device_type);
  aoti_torch_get_device_index(like.handle(), &device_index);
  AtenTensorHandle handle = nullptr;
  check_torch(
      aoti_torch_empty_strided(dim, sizes, strides, torch_code(dtype), device_type, device_index, &handle),
      "empty_strided");
  return handle;
}

// ---- Arguments ----

namespace {

AtenTensorHandle handle_of(StableIValue value) {
  return reinterpret_cast<AtenTensorHandle>(value);
}

// Of a Tensor?: null for none.
AtenTensorHandle optional_handle_of(StableIValue value) {
  return value == 0 ? nullptr : handle_of(*reinterpret_cast<const StableIValue*>(value));
}

void free_tensor(StableIValue value) {
  aoti_torch_delete_tensor_object(handle_of(value));
}

void free_optional_tensor(StableIValue value) {
  if (value == 0) return;
  free_tensor(*reinterpret_cast<const StableIValue*>(value));
  delete reinterpret_cast<const StableIValue*>(value);
}

// Calls visit(element) for every element of a list.
template <typename Visit>
void for_each(StableIValue list, Visit&& visit) {
  auto* const handle = reinterpret_cast<StableListHandle>(list);
  size_t size = 0;
  torch_list_size(handle, &size);
  for (size_t i = 0; i < size; ++i) {
    StableIValue element = 0;
    torch_list_get_item(handle, i, &element);
    visit(element);
  }
}

}  // namespace

Arguments::~Arguments() {
  for (int i = 0; i < count_; ++i) {
    const StableIValue value = values_[i];
    switch (kinds_[i]) {
      case Kind::kPlain:
        continue;
      case Kind::kTensor:
        free_tensor(value);
        continue;
      case Kind::kOptionalTensor:
        free_optional_tensor(value);
        continue;
      case Kind::kTensors:
        for_each(value, free_tensor);
        break;
      case Kind::kOptionalTensors:
        for_each(value, free_optional_tensor);
        break;
      case Kind::kIntegers:
        break;
    }
    torch_delete_list(reinterpret_cast<StableListHandle>(value));
  }
}

StableIValue Arguments::read(Kind kind) {
  kinds_[count_] = kind;
  values_[count_] = stack_[count_];
  return values_[count_++];
}

Tensor Arguments::tensor() {
  return Tensor(handle_of(read(Kind::kTensor)));
}

Tensor Arguments::optional_tensor() {
  const AtenTensorHandle handle = optional_handle_of(read(Kind::kOptionalTensor));
  return handle == nullptr ? Tensor() : Tensor(handle);
}

int64_t Arguments::integer() {
  return static_cast<int64_t>(read(Kind::kPlain));
}

double Arguments::number() {
  const StableIValue value = read(Kind::kPlain);
  double number;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

std::vector<int64_t> Arguments::integers() {
  std::vector<int64_t> values;
  for_each(read(Kind::kIntegers),
           [&](StableIValue element) { values.push_back(static_cast<int64_t>(element)); });
  return values;
}

std::vector<Tensor> Arguments::tensors() {
  std::vector<Tensor> values;
  for_each(read(Kind::kTensors), [&](StableIValue element) { values.emplace_back(handle_of(element)); });
  return values;
}

std::vector<Tensor> Arguments::optional_tensors() {
  std::vector<Tensor> values;
  for_each(read(Kind::kOptionalTensors), [&](StableIValue element) {
    const AtenTensorHandle handle = optional_handle_of(element);
    values.push_back(handle == nullptr ? Tensor() : Tensor(handle));
  });
  return values;
}

// ---- Checker ----

void Checker::fail(const std::string& message) const {
  throw std::runtime_error(std::string("lowbit::") + op_ + ": " + message);
}

void Checker::expect(const Tensor& tensor, const char* name, Dtype dtype,
                     std::initializer_list<int64_t> shape) const {
  if (tensor.dtype() == dtype && has_shape(tensor, shape) && tensor.contiguous()) return;
  fail(std::string(name) + " must be a contiguous " + name_of(dtype) + " tensor " +
       list(shape.begin(), static_cast<int64_t>(shape.size())) + "; found " + tensor.describe());
}

void Checker::expect_float(const Tensor& tensor, const char* name,
                           std::initializer_list<int64_t> shape) const {
  if (is_float(tensor.dtype()) && has_shape(tensor, shape) && tensor.contiguous()) return;
  fail(std::string(name) + " must be a contiguous float32, float16 or bfloat16 tensor " +
       list(shape.begin(), static_cast<int64_t>(shape.size())) + "; found " + tensor.describe());
}

void Checker::expect_input(const Tensor& x, int64_t in_features) const {
  if (is_float(x.dtype()) && x.dim() >= 1 && x.size(-1) == in_features) return;
  fail("x must be a float32, float16 or bfloat16 tensor with a last dimension of " +
       std::to_string(in_features) + "; found " + x.describe());
}

void Checker::expect_output(const Tensor& out, const Tensor& x, int64_t out_features) const {
  bool same = out.dim() == x.dim() && out.dtype() == x.dtype() && out.size(-1) == out_features;
  for (int64_t i = 0; same && i + 1 < x.dim(); ++i) same = out.size(i) == x.size(i);
  if (same) return;
  fail("out must have the dtype and leading dimensions of x (" + x.describe() + ") and a last dimension of " +
       std::to_string(out_features) + "; found " + out.describe());
}

lowbit_precision Checker::precision(int64_t value) const {
  if (value < LOWBIT_FAST || value > LOWBIT_EXACT) {
    fail("precision must be 0 (fast), 1 (high) or 2 (exact); found " + std::to_string(value));
  }
  return static_cast<lowbit_precision>(value);
}

lowbit_vector Checker::bias(const Tensor& tensor, int64_t out_features) const {
  if (!tensor) return {nullptr, LOWBIT_F32, 0};
  expect_float(tensor, "bias", {out_features});
  return {tensor.data(), c_dtype(tensor.dtype()), out_features};
}

void Checker::status(lowbit_status status) const {
  if (status != LOWBIT_OK) fail(lowbit_last_error());
}

// ---- Input and Result ----

Input::Input(const Tensor& x) {
  const Tensor* source = &x;
  std::optional<int64_t> stride = x.row_stride();
  if (!stride) {
    copy_.reset(empty_rows(x, x.size(-1), x.dtype()));
    source = &copy_.get();
    check_torch(aoti_torch_copy_(source->handle(), x.handle(), 0), "copy_");
    stride = x.size(-1);
  }
  view_ = {source->data(), c_dtype(x.dtype()), x.rows(), x.size(-1), *stride};
}

Result::Result(const Tensor& x, int64_t out_features, const Tensor& out) : out_(out) {
  std::optional<int64_t> stride = out && !crosses(x, out) ? out.row_stride() : std::nullopt;
  if (!stride) {
    buffer_.reset(empty_rows(x, out_features, x.dtype()));
    stride = out_features;
  }
  const Tensor& target = buffer_.get() ? buffer_.get() : out_;
  view_ = {target.data(), c_dtype(x.dtype()), x.rows(), out_features, *stride};
}

void Result::finish(StableIValue* stack) {
  if (!out_) {
    stack[0] = reinterpret_cast<StableIValue>(buffer_.release());
  } else if (buffer_.get()) {
    check_torch(aoti_torch_copy_(out_.handle(), buffer_.get().handle(), 0), "copy_");
  }
}

namespace {

struct Loop {
  void (*body)(void* context, int32_t chunk);
  void* context;
};

// torch's workers spin for a while after each of its own operators; a second pool would wait for their cores.
void torch_threads(int32_t chunks, void (*body)(void* context, int32_t chunk), void* context) {
  Loop loop{body, context};
  constexpr auto run = [](int64_t begin, int64_t end, void* opaque) {
    const Loop& work = *static_cast<const Loop*>(opaque);
    for (int64_t chunk = begin; chunk < end; ++chunk) work.body(work.context, static_cast<int32_t>(chunk));
  };
  check_torch(torch_parallel_for(0, chunks, 1, run, &loop), "parallel_for");
}

}  // namespace

void follow_torch_threads() {
  uint32_t threads = 1;
  check_torch(torch_get_num_threads(&threads), "get_num_threads");
  lowbit_set_num_threads(static_cast<int32_t>(threads));
  lowbit_set_parallel_for(torch_threads);
}

}  // namespace lowbit::torch_ops
