#include "python/linear.h"

#include <vector>

namespace lowbit::python {
namespace {

constexpr int64_t kFastGroup = 128;  // inputs per activation scale at precision fast

lowbit_input input_of(const py::array& x) {
  expect_floats(x, "x", {kAny, kAny});
  return {x.data(), float_dtype(x, "x"), x.shape(0), x.shape(1), x.shape(1)};
}

lowbit_vector bias_of(const OptionalArray& bias, int64_t out_features) {
  if (!bias) return {nullptr, LOWBIT_F32, 0};
  expect_floats(*bias, "bias", {out_features});
  return {bias->data(), float_dtype(*bias, "bias"), out_features};
}

lowbit_bits bits_of(const py::array& tiles, int64_t planes, int64_t out_features, int64_t in_features,
                    const OptionalArray& scales, int64_t group_size, const OptionalArray& offsets) {
  if (out_features < 1) raise("ValueRangeError", "out_features must be positive", py::int_(out_features));
  if (group_size != -1 && (group_size < 1 || group_size % LOWBIT_BLOCK_INPUTS != 0)) {
    raise("ValueRangeError", "unsupported group_size", py::int_(group_size),
          py::str("-1 or multiples of 32"));
  }
  const int64_t num_tiles = ceil_div(out_features, LOWBIT_TILE_ROWS);
  const int64_t groups = group_size == -1 ? 1 : ceil_div(in_features, group_size);
  expect<uint8_t>(tiles, "tiles",
                  {num_tiles, planes, ceil_div(in_features, LOWBIT_BLOCK_INPUTS), LOWBIT_TILE_ROWS, 4});
  lowbit_bits bits{};
  bits.out_features = out_features;
  bits.in_features = in_features;
  bits.planes = static_cast<int32_t>(planes);
  bits.tiles = static_cast<const uint8_t*>(tiles.data());
  bits.group_size = group_size;
  if (scales) {
    expect_floats(*scales, "scales", {num_tiles, groups, LOWBIT_TILE_ROWS});
    bits.scales = scales->data();
    bits.scales_dtype = float_dtype(*scales, "scales");
  }
  if (offsets) {
    expect<int16_t>(*offsets, "offsets", {num_tiles, groups, LOWBIT_TILE_ROWS});
    bits.offsets = static_cast<const int16_t*>(offsets->data());
  }
  return bits;
}

// Allocates y, runs call(y) without the interpreter lock and raises its error.
template <typename Call>
py::array run(const py::array& x, int64_t out_features, Call&& call) {
  py::array result(x.dtype(), {x.shape(0), static_cast<py::ssize_t>(out_features)});
  if (x.shape(0) == 0) return result;
  const lowbit_output y{result.mutable_data(), float_dtype(x, "x"), x.shape(0), out_features, out_features};
  lowbit_status status;
  {
    py::gil_scoped_release unlocked;
    status = call(y);
  }
  check(status);
  return result;
}

}  // namespace

lowbit_precision precision_of(const std::string& name) {
  if (name == "fast") return LOWBIT_FAST;
  if (name == "high") return LOWBIT_HIGH;
  if (name == "exact") return LOWBIT_EXACT;
  raise("ValueRangeError", "unknown precision", py::str(name), py::str("fast, high, exact"));
}

py::array signs_linear(const py::array& x, const py::array& tiles, int64_t out_features,
                       const OptionalArray& scales, int64_t group_size, const OptionalArray& router,
                       const OptionalArray& in_scales, const OptionalArray& out_scales,
                       const OptionalArray& bias, const std::string& precision) {
  const lowbit_input input = input_of(x);
  lowbit_signs signs{};
  signs.bits = bits_of(tiles, 1, out_features, input.cols, scales, group_size, std::nullopt);
  if (in_scales.has_value() != out_scales.has_value() || (router && !in_scales)) {
    raise("FormatError", "router, in_scales and out_scales belong together");
  }
  if (in_scales) {
    expect_floats(*in_scales, "in_scales", {kAny, input.cols});
    const int64_t experts = in_scales->shape(0);
    expect_floats(*out_scales, "out_scales", {experts, out_features});
    signs.experts = static_cast<int32_t>(experts);
    signs.dtype = float_dtype(*in_scales, "in_scales");
    bool one_dtype = float_dtype(*out_scales, "out_scales") == signs.dtype;
    if (experts > 1) {
      if (!router) raise("FormatError", "more than one expert needs a router");
      expect_floats(*router, "router", {experts, input.cols});
      one_dtype = one_dtype && float_dtype(*router, "router") == signs.dtype;
      signs.router = router->data();
    }
    if (!one_dtype) raise("DtypeError", "router, in_scales and out_scales must have one dtype");
    signs.in_scales = in_scales->data();
    signs.out_scales = out_scales->data();
    signs.out_scales_stride = out_features;
  }
  const lowbit_vector bias_view = bias_of(bias, out_features);
  const lowbit_precision level = precision_of(precision);
  return run(x, out_features, [&](const lowbit_output& y) {
    return lowbit_signs_linear(&signs, 1, &input, &bias_view, level, &y);
  });
}

py::array planes_linear(const py::array& x, const py::array& tiles, int64_t out_features,
                        const py::array& scales, int64_t group_size, const OptionalArray& offsets,
                        std::optional<int32_t> active_bits, int32_t activation_bits,
                        const OptionalArray& bias, const std::string& precision) {
  const lowbit_input input = input_of(x);
  const int64_t planes = tiles.ndim() == 5 ? tiles.shape(1) : 1;
  const lowbit_bits bits = bits_of(tiles, planes, out_features, input.cols, scales, group_size, offsets);
  const lowbit_vector bias_view = bias_of(bias, out_features);
  const lowbit_precision level = precision_of(precision);
  const int32_t active = active_bits.value_or(bits.planes);
  return run(x, out_features, [&](const lowbit_output& y) {
    return lowbit_planes_linear(&bits, active, &input, activation_bits, &bias_view, level, &y);
  });
}

py::tuple quantize_activations(const py::array& x, const std::string& precision, int32_t activation_bits) {
  const lowbit_input input = input_of(x);
  const lowbit_precision level = precision_of(precision);
  const bool grouped = level == LOWBIT_FAST && activation_bits == 0;
  py::array_t<int32_t> codes({input.rows, input.cols});
  py::array_t<float> scales({input.rows, grouped ? ceil_div(input.cols, kFastGroup) : 1});
  check(lowbit_quantize_activations(&input, activation_bits, level, codes.mutable_data(),
                                    scales.mutable_data()));
  return py::make_tuple(codes, scales);
}

py::tuple signs_prologue(const py::array& x, const OptionalArray& router, const py::array& in_scales) {
  const lowbit_input input = input_of(x);
  expect_floats(in_scales, "in_scales", {kAny, input.cols});
  const int64_t experts = in_scales.shape(0);
  if (experts > 1 && !router) raise("FormatError", "more than one expert needs a router");
  if (router) {
    expect_floats(*router, "router", {experts, input.cols});
    if (float_dtype(*router, "router") != float_dtype(in_scales, "in_scales")) {
      raise("DtypeError", "router and in_scales must have one dtype");
    }
  }
  // The prologue reads no weight and no output scale; the checks of the segment want to see some.
  const std::vector<uint8_t> tile(ceil_div(input.cols, LOWBIT_BLOCK_INPUTS) * LOWBIT_TILE_ROWS * 4);
  lowbit_signs segment{};
  segment.bits.out_features = 1;
  segment.bits.in_features = input.cols;
  segment.bits.planes = 1;
  segment.bits.tiles = tile.data();
  segment.bits.group_size = -1;
  segment.experts = static_cast<int32_t>(experts);
  segment.dtype = float_dtype(in_scales, "in_scales");
  segment.in_scales = in_scales.data();
  segment.out_scales = in_scales.data();
  segment.out_scales_stride = 1;
  if (experts > 1) segment.router = router->data();
  py::array_t<float> gates({input.rows, experts});
  py::array_t<float> z({input.rows, input.cols});
  check(lowbit_signs_prologue(&segment, &input, gates.mutable_data(), z.mutable_data()));
  return py::make_tuple(gates, z);
}

}  // namespace lowbit::python
