// Registers the operators when this library is loaded. Fake implementations and gradients are in
// python/lowbit/ops.
#include "torch/registration.h"

namespace lowbit::torch_ops {
namespace {

// Only on the CPU: what it saves there is most of a small layer's time.
constexpr Operator kSiblings =
    LOWBIT_OPERATOR(siblings_linear,
                    "Tensor x, Tensor[] tiles, Tensor?[] scales, Tensor?[] offsets, Tensor?[] router, "
                    "Tensor?[] in_scales, Tensor?[] out_scales, Tensor?[] bias, int in_features, "
                    "int[] out_features, int[] group_sizes, int active_bits, int activation_bits, "
                    "int precision");

// Of one token: what stands between the layers while a model decodes.
constexpr Operator kAttention = LOWBIT_OPERATOR(
    attention, "Tensor query, Tensor keys, Tensor values, Tensor? seen, float scale, float softcap");

bool register_all() {
  const Registry registry("lowbit", "CPU", "csrc/torch/library.cpp");
  registry.define_operators();
  registry.implement_operators();
  registry.define(kSiblings);
  registry.implement(kSiblings);
  registry.define(kAttention);
  registry.implement(kAttention);
  return true;
}

const bool registered = register_all();

}  // namespace
}  // namespace lowbit::torch_ops
