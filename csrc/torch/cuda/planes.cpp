// lowbit::planes_linear on GPUs: checks and unpacks the arguments, then calls lowbit_cuda_planes_linear.
#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"
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
  const Gpu gpu(check, x);
  gpu.require_here({x, tiles, scales, offsets, bias, out});
  check.expect_input(x, in_features);
  check.require(out_features >= 1, "out_features must be positive");
  lowbit_cuda_bits weight = describe_tiles(check, tiles, out_features, in_features, group_size);
  const BitsShape shape = shape_of(check, weight);
  check.expect(tiles, "tiles", Dtype::kU8, {weight.bits, weight.num_digits, shape.words, kWordBytes});
  check.expect_float(scales, "scales", {shape.rows, shape.units});
  weight.tiles = tiles.data();
  weight.scales = scales.data();
  weight.scales_dtype = c_dtype(scales.dtype());
  if (offsets) {
    check.expect(offsets, "offsets", Dtype::kI16, {shape.rows, shape.units});
    weight.offsets = static_cast<const int16_t*>(offsets.data());
  }
  const lowbit_precision precision = check.precision(precision_number);
  const int32_t active = static_cast<int32_t>(active_bits);
  const int32_t activation = static_cast<int32_t>(activation_bits);

  compute_on(
      gpu, check, args, x, bias, out, out_features,
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
