// Registers the operators when this library is loaded. Fake implementations and gradients are in
// python/lowbit/ops.
#include <string>

#include "torch/operators.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {
namespace {

struct Operator {
  const char* name;
  const char* arguments;
  BoxedKernel functional, out;
};

#define LOWBIT_OPERATOR(name, arguments)      \
  Operator {                                  \
    #name, arguments, name<false>, name<true> \
  }

constexpr Operator kOperators[] = {
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

TorchLibraryHandle open_library(const char* dispatch_key) {
  constexpr const char* kFile =
      "csrc/torch/library.cpp";  // for torch's messages; __FILE__ would name our machine
  TorchLibraryHandle library = nullptr;
  check_torch(dispatch_key == nullptr
                  ? aoti_torch_library_init_def("lowbit", kFile, __LINE__, &library)
                  : aoti_torch_library_init_impl("lowbit", dispatch_key, kFile, __LINE__, &library),
              "library");
  return library;
}

// torch keeps registrations for the life of the process, so the library handles are never given back.
bool register_operators() {
  const TorchLibraryHandle schemas = open_library(nullptr);
  const TorchLibraryHandle cpu = open_library("CPU");
  const auto add = [&](const std::string& name, const std::string& schema, BoxedKernel kernel) {
    check_torch(aoti_torch_library_def(schemas, (name + schema).c_str()), "library define");
    check_torch(torch_library_impl(cpu, name.c_str(), kernel, kTorchVersion), "library impl");
  };
  for (const Operator& op : kOperators) {
    const std::string arguments = op.arguments;
    add(op.name, "(" + arguments + ") -> Tensor", op.functional);
    add(std::string(op.name) + "_out", "(" + arguments + ", Tensor(a!) out) -> ()", op.out);
  }
  return true;
}

const bool registered = register_operators();

}  // namespace
}  // namespace lowbit::torch_ops
