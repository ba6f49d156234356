// lowbit::signs_linear: checks and unpacks the arguments, then calls lowbit_signs_linear.
#include "torch/bits.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {
namespace {

// Router and scales of BinaryMoS or OneBit, as in the schema.
struct Mix {
  Tensor router, in_scales, out_scales;

  int64_t experts() const { return in_scales ? in_scales.size(-2) : 0; }

  void check(const Checker& check, int64_t segments, int64_t in_features, int64_t out_features) const {
    if (!in_scales) {
      check.require(!out_scales && !router, "router and out_scales need in_scales");
      return;
    }
    check.require(bool(out_scales), "in_scales needs out_scales");
    check.require(in_scales.dim() >= 2,
                  "in_scales must be [experts, in_features] or [segments, experts, in_features]");
    const int64_t experts = in_scales.size(-2);
    check.require(experts >= 1, "in_scales must have at least one expert");
    check.require(experts == 1 || router, "more than one expert needs a router");
    expect_per_segment(check, in_scales, "in_scales", segments, experts, in_features);
    if (router) expect_per_segment(check, router, "router", segments, experts, in_features);
    check.expect_float(out_scales, "out_scales", {experts, out_features});
    check.require(out_scales.dtype() == in_scales.dtype() && (!router || router.dtype() == in_scales.dtype()),
                  "router, in_scales and out_scales must have one dtype");
  }

 private:
  static void expect_per_segment(const Checker& check, const Tensor& tensor, const char* name,
                                 int64_t segments, int64_t experts, int64_t in_features) {
    if (segments == 1 && tensor.dim() == 2) {
      check.expect_float(tensor, name, {experts, in_features});
    } else {
      check.expect_float(tensor, name, {segments, experts, in_features});
    }
  }
};

}  // namespace

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
  if (segments.empty()) segments.push_back(out_features);
  int64_t total = 0;
  int64_t num_tiles = 0;
  for (int64_t n : segments) {
    check.require(n >= 1, "segments must be positive");
    total += n;
    num_tiles += ceil_div(n, LOWBIT_TILE_ROWS);
  }
  check.require(total == out_features, "segments must add up to out_features");
  const lowbit_bits all = check_bits(check, tiles, scales, Tensor(), num_tiles, 1, in_features, group_size);
  const int64_t num_segments = static_cast<int64_t>(segments.size());
  mix.check(check, num_segments, in_features, out_features);
  const lowbit_precision precision = check.precision(precision_number);

  // Byte strides from one tile, and one segment, to the next.
  const int64_t tile_bytes = tiles.stride(0);
  const int64_t tile_scale_bytes = scales ? scales.stride(0) * element_size(all.scales_dtype) : 0;
  const int64_t experts = mix.experts();
  const lowbit_dtype mix_dtype = experts ? c_dtype(mix.in_scales.dtype()) : LOWBIT_F32;
  const int64_t mix_bytes = experts * in_features * element_size(mix_dtype);

  std::vector<lowbit_signs> parts(segments.size());
  int64_t tile = 0;
  int64_t row = 0;
  for (int64_t s = 0; s < num_segments; ++s) {
    lowbit_signs& part = parts[s];
    part.bits = all;
    part.bits.out_features = segments[s];
    part.bits.tiles += tile * tile_bytes;
    if (scales) part.bits.scales = scales.bytes() + tile * tile_scale_bytes;
    part.experts = static_cast<int32_t>(experts);
    part.dtype = mix_dtype;
    if (experts) {
      if (experts > 1) part.router = mix.router.bytes() + s * mix_bytes;
      part.in_scales = mix.in_scales.bytes() + s * mix_bytes;
      part.out_scales = mix.out_scales.bytes() + row * element_size(mix_dtype);
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
