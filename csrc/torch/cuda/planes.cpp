// lowbit::planes_linear on GPUs: checks and unpacks the arguments, then calls lowbit_cuda_planes_linear.
#include "torch/arguments.h"
#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

template <bool kOut>
void planes_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const PlanesArguments all(args, kOut);

  const Checker check("planes_linear");
  Gpu gpu(check, all.x);
  gpu.require_here({all.x, all.tiles, all.scales, all.offsets, all.bias, all.out});
  check.expect_input(all.x, all.in_features);
  check.require(all.out_features >= 1, "out_features must be positive");
  lowbit_cuda_bits weight =
      describe_tiles(check, all.tiles, all.out_features, all.in_features, all.group_size);
  const BitsShape shape = shape_of(check, weight);
  check.expect(all.tiles, "tiles", Dtype::kU8, {weight.bits, weight.num_digits, shape.words, kWordBytes});
  check.expect_float(all.scales, "scales", {shape.rows, shape.units});
  weight.tiles = all.tiles.data();
  weight.scales = all.scales.data();
  weight.scales_dtype = c_dtype(all.scales.dtype());
  if (all.offsets) {
    check.expect(all.offsets, "offsets", Dtype::kI16, {shape.rows, shape.units});
    weight.offsets = static_cast<const int16_t*>(all.offsets.data());
  }
  const lowbit_precision precision = check.precision(all.precision);
  const int32_t active = static_cast<int32_t>(all.active_bits);
  const int32_t activation = static_cast<int32_t>(all.activation_bits);

  gpu.lend_matmul(all.x.rows());
  compute_on(
      gpu, check, args, all.x, all.bias, all.out, all.out_features,
      [&](int64_t tokens, size_t* bytes) {
        return lowbit_cuda_planes_workspace(gpu.description(), &weight, active, tokens, activation, precision,
                                            bytes);
      },
      [&](auto* input, auto* bias_view, auto* y, void* memory, size_t bytes) {
        return lowbit_cuda_planes_linear(gpu.description(), &weight, active, input, activation, bias_view,
                                         precision, y, memory, bytes, gpu.stream());
      });
}

LOWBIT_INSTANTIATE(planes_linear)

}  // namespace lowbit::torch_ops
