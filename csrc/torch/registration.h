// The operators, and how a library that implements them for a device tells torch when it is loaded.
#pragma once

#include <string>

#include "torch/operators.h"
#include "torch/shim.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

// The kernels are those that this library is linked with.
struct Operator {
  const char* name;
  const char* arguments;
  BoxedKernel functional, out;
};

#define LOWBIT_OPERATOR(name, arguments)      \
  Operator {                                  \
    #name, arguments, name<false>, name<true> \
  }

inline constexpr Operator kOperators[] = {
    LOWBIT_OPERATOR(
        signs_linear,
        "Tensor x, Tensor tiles, Tensor? scales, Tensor? router, Tensor? in_scales, Tensor? out_scales, "
        "Tensor? bias, int[] segments, int in_features, int out_features, int group_size, int precision"),
    LOWBIT_OPERATOR(planes_linear,
                    "Tensor x, Tensor tiles, Tensor scales, Tensor? offsets, Tensor? bias, int in_features, "
                    "int out_features, int group_size, int active_bits, int activation_bits, int precision"),
    LOWBIT_OPERATOR(codebook_channel_linear,
                    "Tensor x, Tensor weight, Tensor labels, Tensor? low_rank_out, Tensor? low_rank_in, "
                    "Tensor? bias, int in_features, int out_features, int axis, int precision"),
    LOWBIT_OPERATOR(
        codebook_scalar_linear,
        "Tensor x, Tensor weight, Tensor tables, Tensor? outlier_offsets, Tensor? outlier_columns, "
        "Tensor? outlier_values, Tensor? bias, int in_features, int precision"),
    LOWBIT_OPERATOR(
        codebook_vector_linear,
        "Tensor x, Tensor weight, Tensor codebooks, Tensor out_scales, Tensor? bias, int in_features, "
        "int precision"),
};

// A part of torch's registry. torch keeps registrations for the life of the process, so the handles are never
// given back. `file` is for torch's messages.
class Registry {
 public:
  Registry(const char* name_space, const char* dispatch_key, const char* file) {
    check_torch(aoti_torch_library_init_fragment(name_space, file, 0, &schemas_), "library");
    check_torch(aoti_torch_library_init_impl(name_space, dispatch_key, file, 0, &kernels_), "library");
  }

  void define(const std::string& schema) const {
    check_torch(aoti_torch_library_def(schemas_, schema.c_str()), "library define");
  }
  void implement(const std::string& name, BoxedKernel kernel) const {
    check_torch(torch_library_impl(kernels_, name.c_str(), kernel, kTorchVersion), "library impl");
  }

  void define(const Operator& op) const {
    const std::string name = op.name;
    const std::string arguments = op.arguments;
    define(name + "(" + arguments + ") -> Tensor");
    define(name + "_out(" + arguments + ", Tensor(a!) out) -> ()");
  }
  void implement(const Operator& op) const {
    implement(op.name, op.functional);
    implement(std::string(op.name) + "_out", op.out);
  }

  void define_operators() const {
    for (const Operator& op : kOperators) define(op);
  }
  void implement_operators() const {
    for (const Operator& op : kOperators) implement(op);
  }

 private:
  TorchLibraryHandle schemas_ = nullptr;
  TorchLibraryHandle kernels_ = nullptr;
};

}  // namespace lowbit::torch_ops
