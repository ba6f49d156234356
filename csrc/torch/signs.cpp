// lowbit::signs_linear: checks and unpacks the arguments, then calls lowbit_signs_linear.
#include "torch/arguments.h"
#include "torch/bits.h"
#include "torch/compute.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {
template <bool kOut>
void signs_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  SignsArguments all(args, kOut);

  const Checker check("signs_linear");
  check.expect_input(all.x, all.in_features);
  check_segments(check, all.segments, all.out_features);
  int64_t num_tiles = 0;
  for (int64_t n : all.segments) num_tiles += ceil_div(n, LOWBIT_TILE_ROWS);
  const lowbit_bits bits =
      check_bits(check, all.tiles, all.scales, Tensor(), num_tiles, 1, all.in_features, all.group_size);
  const int64_t num_segments = static_cast<int64_t>(all.segments.size());
  all.mix.check(check, num_segments, all.in_features, all.out_features);
  const lowbit_precision precision = check.precision(all.precision);

  // Byte strides from one tile, and one segment, to the next.
  const int64_t tile_bytes = all.tiles.stride(0);
  const int64_t tile_scale_bytes = all.scales ? all.scales.stride(0) * element_size(bits.scales_dtype) : 0;
  std::vector<lowbit_signs> parts(all.segments.size());
  int64_t tile = 0;
  int64_t row = 0;
  for (int64_t s = 0; s < num_segments; ++s) {
    lowbit_signs& part = parts[s];
    part.bits = bits;
    part.bits.out_features = all.segments[s];
    part.bits.tiles += tile * tile_bytes;
    if (all.scales) part.bits.scales = all.scales.bytes() + tile * tile_scale_bytes;
    part.experts = static_cast<int32_t>(all.mix.experts());
    part.dtype = all.mix.dtype();
    if (all.mix.experts() > 0) {
      part.router = all.mix.router_of(s, all.in_features);
      part.in_scales = all.mix.in_scales_of(s, all.in_features);
      part.out_scales = all.mix.out_scales_from(row);
      part.out_scales_stride = all.out_features;
    }
    tile += ceil_div(all.segments[s], LOWBIT_TILE_ROWS);
    row += all.segments[s];
  }

  compute(check, args, all.x, all.bias, all.out, all.out_features,
          [parts = std::move(parts), num_segments, precision](auto* input, auto* bias_view, auto* y) {
            return lowbit_signs_linear(parts.data(), static_cast<int32_t>(num_segments), input, bias_view,
                                       precision, y);
          });
}

LOWBIT_INSTANTIATE(signs_linear)

}  // namespace lowbit::torch_ops
