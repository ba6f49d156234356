// lowbit::signs_linear on GPUs: checks and unpacks the arguments, then calls lowbit_cuda_signs_linear.
#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"
#include "torch/mix.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

template <bool kOut>
void signs_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor x = args.tensor();
  const Tensor tiles = args.tensor();
  const Tensor scales = args.optional_tensor();
  Mix mix;
  mix.router = args.optional_tensor();
  mix.in_scales = args.optional_tensor();
  mix.out_scales = args.optional_tensor();
  const Tensor bias = args.optional_tensor();
  std::vector<int64_t> segments = args.integers();
  const int64_t in_features = args.integer();
  const int64_t out_features = args.integer();
  const int64_t group_size = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  const Checker check("signs_linear");
  const Gpu gpu(check, x);
  gpu.require_here({x, tiles, scales, mix.router, mix.in_scales, mix.out_scales, bias, out});
  check.expect_input(x, in_features);
  check_segments(check, segments, out_features);
  const int64_t num_segments = static_cast<int64_t>(segments.size());
  mix.check(check, num_segments, in_features, out_features);
  const lowbit_precision precision = check.precision(precision_number);

  std::vector<lowbit_cuda_signs> parts(segments.size());
  int64_t word = 0;
  int64_t scale_row = 0;
  int64_t row = 0;
  for (int64_t s = 0; s < num_segments; ++s) {
    lowbit_cuda_signs& part = parts[s];
    part.bits = describe_tiles(check, tiles, segments[s], in_features, group_size);
    check.require(part.bits.bits == 1, "tiles must hold one bit a weight");
    const BitsShape shape = shape_of(check, part.bits);
    part.bits.tiles = tiles.bytes() + word * kWordBytes;
    if (scales) {
      check.require(scales.dim() == 2 && scales.size(1) == shape.units && is_float(scales.dtype()),
                    "scales must be floats [16 ceil(out_features / 16), units]");
      part.bits.scales_dtype = c_dtype(scales.dtype());
      part.bits.scales = scales.bytes() + scale_row * shape.units * element_size(part.bits.scales_dtype);
    }
    part.experts = static_cast<int32_t>(mix.experts());
    part.dtype = mix.dtype();
    if (mix.experts() > 0) {
      part.router = mix.router_of(s, in_features);
      part.in_scales = mix.in_scales_of(s, in_features);
      part.out_scales = mix.out_scales_from(row);
      part.out_scales_stride = out_features;
    }
    word += shape.words;
    scale_row += shape.rows;
    row += segments[s];
  }
  check.expect(tiles, "tiles", Dtype::kU8, {1, 1, word, kWordBytes});
  if (scales) check.expect_float(scales, "scales", {scale_row, scales.size(1)});

  const int32_t count = static_cast<int32_t>(num_segments);
  compute_on(
      gpu, check, args, x, bias, out, out_features,
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
