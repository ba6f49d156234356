// lowbit::planes_linear: checks and unpacks the arguments, then calls lowbit_planes_linear.
#include "torch/bits.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

template <bool kOut>
void planes_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor x = args.tensor();
  const Tensor tiles = args.tensor();
  const Tensor scales = args.tensor();
  const Tensor offsets = args.optional_tensor();
  const Tensor bias = args.optional_tensor();
  const int64_t in_features = args.integer();
  const int64_t out_features = args.integer();
  const int64_t group_size = args.integer();
  const int64_t active_bits = args.integer();
  const int64_t activation_bits = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  const Checker check("planes_linear");
  check.expect_input(x, in_features);
  check.require(out_features >= 1, "out_features must be positive");
  const int64_t planes = tiles.dim() == 5 ? tiles.size(1) : 0;
  check.require(planes >= 1 && planes <= 8,
                "tiles must be [tiles, planes, blocks, 64, 4] with 1 to 8 planes");
  lowbit_bits bits = check_bits(check, tiles, scales, offsets, ceil_div(out_features, LOWBIT_TILE_ROWS),
                                planes, in_features, group_size);
  bits.out_features = out_features;
  check.require(active_bits >= 1 && active_bits <= planes,
                "active_bits must be between 1 and the number of planes");
  check.require(activation_bits >= 0 && activation_bits <= 8, "activation_bits must be between 0 and 8");
  const lowbit_precision precision = check.precision(precision_number);

  compute(check, args, x, bias, out, out_features, [&](auto* input, auto* bias_view, auto* y) {
    return lowbit_planes_linear(&bits, static_cast<int32_t>(active_bits), input,
                                static_cast<int32_t>(activation_bits), bias_view, precision, y);
  });
}

LOWBIT_INSTANTIATE(planes_linear)

}  // namespace lowbit::torch_ops
