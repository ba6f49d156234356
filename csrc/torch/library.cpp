// Registers the operators when this library is loaded. Fake implementations and gradients are in
// python/lowbit/ops.
#include "torch/registration.h"

namespace lowbit::torch_ops {
namespace {

bool register_all() {
  const Registry registry("lowbit", "CPU", "csrc/torch/library.cpp");
  registry.define_operators();
  registry.implement_operators();
  return true;
}

const bool registered = register_all();

}  // namespace
}  // namespace lowbit::torch_ops
