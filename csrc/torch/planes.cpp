// lowbit::planes_linear: checks and unpacks the arguments, then calls lowbit_planes_linear.
#include "torch/arguments.h"
#include "torch/bits.h"
#include "torch/compute.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

template <bool kOut>
void planes_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const PlanesArguments all(args, kOut);

  const Checker check("planes_linear");
  check.expect_input(all.x, all.in_features);
  check.require(all.out_features >= 1, "out_features must be positive");
  const int64_t planes = all.tiles.dim() == 5 ? all.tiles.size(1) : 0;
  check.require(planes >= 1 && planes <= 8,
                "tiles must be [tiles, planes, blocks, 64, 4] with 1 to 8 planes");
  lowbit_bits bits =
      check_bits(check, all.tiles, all.scales, all.offsets, ceil_div(all.out_features, LOWBIT_TILE_ROWS),
                 planes, all.in_features, all.group_size);
  bits.out_features = all.out_features;
  check.require(all.active_bits >= 1 && all.active_bits <= planes,
                "active_bits must be between 1 and the number of planes");
  check.require(all.activation_bits >= 0 && all.activation_bits <= 8,
                "activation_bits must be between 0 and 8");
  const lowbit_precision precision = check.precision(all.precision);

  compute(check, args, all.x, all.bias, all.out, all.out_features,
          [bits, active_bits = static_cast<int32_t>(all.active_bits),
           activation_bits = static_cast<int32_t>(all.activation_bits),
           precision](auto* input, auto* bias_view, auto* y) {
            return lowbit_planes_linear(&bits, active_bits, input, activation_bits, bias_view, precision, y);
          });
}

LOWBIT_INSTANTIATE(planes_linear)

}  // namespace lowbit::torch_ops
