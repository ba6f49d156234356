// lowbit::signs_linear on GPUs: checks and unpacks the arguments, then calls lowbit_cuda_signs_linear.
#include "torch/arguments.h"
#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

template <bool kOut>
void signs_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  SignsArguments all(args, kOut);

  const Checker check("signs_linear");
  Gpu gpu(check, all.x);
  gpu.require_here({all.x, all.tiles, all.scales, all.mix.router, all.mix.in_scales, all.mix.out_scales,
                    all.bias, all.out});
  check.expect_input(all.x, all.in_features);
  check_segments(check, all.segments, all.out_features);
  const int64_t num_segments = static_cast<int64_t>(all.segments.size());
  all.mix.check(check, num_segments, all.in_features, all.out_features);
  const lowbit_precision precision = check.precision(all.precision);

  std::vector<lowbit_cuda_signs> parts(all.segments.size());
  int64_t word = 0;
  int64_t scale_row = 0;
  int64_t row = 0;
  for (int64_t s = 0; s < num_segments; ++s) {
    lowbit_cuda_signs& part = parts[s];
    part.bits = describe_tiles(check, all.tiles, all.segments[s], all.in_features, all.group_size);
    check.require(part.bits.bits == 1, "tiles must hold one bit a weight");
    const BitsShape shape = shape_of(check, part.bits);
    part.bits.tiles = all.tiles.bytes() + word * kWordBytes;
    if (all.scales) {
      check.require(
          all.scales.dim() == 2 && all.scales.size(1) == shape.units && is_float(all.scales.dtype()),
          "scales must be floats [16 ceil(out_features / 16), units]");
      part.bits.scales_dtype = c_dtype(all.scales.dtype());
      part.bits.scales = all.scales.bytes() + scale_row * shape.units * element_size(part.bits.scales_dtype);
    }
    part.experts = static_cast<int32_t>(all.mix.experts());
    part.dtype = all.mix.dtype();
    if (all.mix.experts() > 0) {
      part.router = all.mix.router_of(s, all.in_features);
      part.in_scales = all.mix.in_scales_of(s, all.in_features);
      part.out_scales = all.mix.out_scales_from(row);
      part.out_scales_stride = all.out_features;
    }
    word += shape.words;
    scale_row += shape.rows;
    row += all.segments[s];
  }
  check.expect(all.tiles, "tiles", Dtype::kU8, {1, 1, word, kWordBytes});
  if (all.scales) check.expect_float(all.scales, "scales", {scale_row, all.scales.size(1)});

  const int32_t count = static_cast<int32_t>(num_segments);
  gpu.lend_matmul(all.x.rows());
  compute_on(
      gpu, check, args, all.x, all.bias, all.out, all.out_features,
      [&](int64_t tokens, size_t* bytes) {
        return lowbit_cuda_signs_workspace(gpu.description(), parts.data(), count, tokens, precision, bytes);
      },
      [&](auto* input, auto* bias_view, auto* y, void* memory, size_t bytes) {
        return lowbit_cuda_signs_linear(gpu.description(), parts.data(), count, input, bias_view, precision,
                                        y, memory, bytes, gpu.stream());
      });
}

LOWBIT_INSTANTIATE(signs_linear)

}  // namespace lowbit::torch_ops
