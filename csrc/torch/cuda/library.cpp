// Registers the GPU kernels of the operators, whose schemas the CPU's library has defined, and the operators
// that lay weights out for them. Fake implementations are in python/lowbit/ops.
#include "torch/cuda/repack.h"
#include "torch/registration.h"

namespace lowbit::torch_ops {
namespace {

bool register_all() {
  const Registry registry("lowbit", "CUDA", "csrc/torch/cuda/library.cpp");
  registry.implement_operators();
  for (const Layout& layout : kLayouts) {
    registry.define(std::string(layout.name) + layout.signature);
    registry.implement(layout.name, layout.kernel);
  }
  return true;
}

const bool registered = register_all();

}  // namespace
}  // namespace lowbit::torch_ops
