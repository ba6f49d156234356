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
  BoxedKernel kernel;
  BoxedKernel out_kernel;
};

constexpr Operator kOperators[] = {
    {"signs_linear",
     "Tensor x, Tensor tiles, Tensor? scales, Tensor? router, Tensor? in_scales, Tensor? out_scales, Tensor? "
     "bias, "
     "int[] segments, int in_features, int out_features, int group_size, int precision",
     signs_linear<false>, signs_linear<true>},
    {"planes_linear",
     "Tensor x, Tensor tiles, Tensor scales, Tensor? offsets, Tensor? bias, int in_features, int "
     "out_features, "
     "int group_size, int active_bits, int activation_bits, int precision",
     planes_linear<false>, planes_linear<true>},
};

// Schemas first, kernels second: an implementation needs its schema. torch keeps both for the process's life,
// so the library handles are never given back.
bool register_operators() {
  constexpr const char* kFile = "csrc/torch/library.cpp";
  TorchLibraryHandle schemas = nullptr;
  TorchLibraryHandle kernels = nullptr;
  check_torch(aoti_torch_library_init_def("lowbit", kFile, __LINE__, &schemas), "library");
  check_torch(aoti_torch_library_init_impl("lowbit", "CPU", kFile, __LINE__, &kernels), "library");
  for (const Operator& op : kOperators) {
    const std::string name = op.name;
    const std::string out_name = name + "_out";
    const std::string schema = name + "(" + op.arguments + ") -> Tensor";
    const std::string out_schema = out_name + "(" + op.arguments + ", Tensor(a!) out) -> ()";
    check_torch(aoti_torch_library_def(schemas, schema.c_str()), "library define");
    check_torch(aoti_torch_library_def(schemas, out_schema.c_str()), "library define");
    check_torch(torch_library_impl(kernels, name.c_str(), op.kernel, kTorchVersion), "library impl");
    check_torch(torch_library_impl(kernels, out_name.c_str(), op.out_kernel, kTorchVersion), "library impl");
  }
  return true;
}

const bool registered = register_operators();

}  // namespace
}  // namespace lowbit::torch_ops
