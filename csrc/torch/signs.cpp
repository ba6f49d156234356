// lowbit::signs_linear: checks and unpacks the arguments, then calls lowbit_signs_linear.
#include "torch/bits.h"
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
  check.expect_input(x, in_features);
  check_segments(check, segments, out_features);
  int64_t num_tiles = 0;
  for (int64_t n : segments) num_tiles += ceil_div(n, LOWBIT_TILE_ROWS);
  const lowbit_bits all = check_bits(check, tiles, scales, Tensor(), num_tiles, 1, in_features, group_size);
  const int64_t num_segments = static_cast<int64_t>(segments.size());
  mix.check(check, num_segments, in_features, out_features);
  const lowbit_precision precision = check.precision(precision_number);

  // Byte strides from one tile, and one segment, to the next.
  const int64_t tile_bytes = tiles.stride(0);
  const int64_t tile_scale_bytes = scales ? scales.stride(0) * element_size(all.scales_dtype) : 0;
  std::vector<lowbit_signs> parts(segments.size());
  int64_t tile = 0;
  int64_t row = 0;
  for (int64_t s = 0; s < num_segments; ++s) {
    lowbit_signs& part = parts[s];
    part.bits = all;
    part.bits.out_features = segments[s];
    part.bits.tiles += tile * tile_bytes;
    if (scales) part.bits.scales = scales.bytes() + tile * tile_scale_bytes;
    part.experts = static_cast<int32_t>(mix.experts());
    part.dtype = mix.dtype();
    if (mix.experts() > 0) {
      part.router = mix.router_of(s, in_features);
      part.in_scales = mix.in_scales_of(s, in_features);
      part.out_scales = mix.out_scales_from(row);
      part.out_scales_stride = out_features;
    }
    tile += ceil_div(segments[s], LOWBIT_TILE_ROWS);
    row += segments[s];
  }

  compute(check, args, x, bias, out, out_features, [&](auto* input, auto* bias_view, auto* y) {
    return lowbit_signs_linear(parts.data(), static_cast<int32_t>(num_segments), input, bias_view, precision,
                               y);
  });
}

LOWBIT_INSTANTIATE(signs_linear)

}  // namespace lowbit::torch_ops
