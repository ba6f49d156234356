// Sizes and parameters: what a Layer is on the device.
#include <algorithm>

#include "cuda/bits/params.h"

namespace lowbit::cuda {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Digits packed_digits(int32_t bits) {
  Digits digits{};
  for (int32_t width : {4, 4, 2, 1}) {
    if (bits < width) continue;
    digits.widths[digits.count++] = width;
    bits -= width;
  }
  return digits;
}

Digits plane_digits(int32_t bits) {
  Digits digits{};
  digits.count = bits;
  std::fill_n(digits.widths, bits, 1);
  return digits;
}

int64_t row_tiles(int64_t out_features) {
  return ceil_div(out_features, kRowTile);
}

int64_t superblocks(int64_t in_features, int32_t width) {
  return ceil_div(in_features, kScaleInputs * 8 / width);
}

int64_t digit_bytes(int64_t out_features, int64_t in_features, int32_t width) {
  return row_tiles(out_features) * superblocks(in_features, width) * kSuperblockBytes;
}

int64_t tile_bytes(int64_t out_features, int64_t in_features, const Digits& digits) {
  int64_t bytes = kTilePadding;
  for (int32_t d = 0; d < digits.count; ++d)
    bytes += digit_bytes(out_features, in_features, digits.widths[d]);
  return bytes;
}

int64_t row_blocks(const Layer& layer, int64_t tiles) {
  int64_t blocks = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    blocks += ceil_div(row_tiles(layer.segments[s].out_features), tiles);
  }
  return blocks;
}

Unit unit_of(int64_t group_size) {
  if (group_size == -1) return Unit::row;
  return group_size % kScaleInputs == 0 ? Unit::inputs_128 : Unit::inputs_32;
}

int64_t unit_count(int64_t in_features, Unit unit) {
  if (unit == Unit::row) return 1;
  return ceil_div(in_features, kSpanInputs) * (kSpanInputs / static_cast<int64_t>(unit));
}

Form form_of(const Layer& layer) {
  const Digits& digits = layer.digits;
  if (digits.widths[0] >= layer.active) {
    return digits.widths[0] == 1 ? Form::one : digits.widths[0] == 2 ? Form::two : Form::four;
  }
  const bool planes =
      std::all_of(digits.widths, digits.widths + digits.count, [](int32_t w) { return w == 1; });
  return planes ? Form::planes : Form::mixed;
}

bool is_grouped(const Layer& layer, const ActivationKind& kind) {
  return layer.unit != Unit::row || kind.fast();
}

float sums_factor(int32_t active_bits, int32_t per_token) {
  const float k = -0.5f * static_cast<float>((1 << active_bits) - 1);
  return per_token == 2 ? k / 257.0f : k;
}

namespace {

// The passes of the active digits: one each, or one for up to `planes` one-bit digits (the first takes what
// is left).
void add_passes(const Layer& layer, int32_t planes, LayerParams& params) {
  const auto bipolar = [](int32_t bits) { return static_cast<float>((1 << bits) - 1); };
  int32_t before = 0;
  int32_t rest = layer.active;
  for (int32_t d = 0; rest > 0;) {
    const int32_t width = layer.digits.widths[d];
    const int32_t count = planes > 1 && form_of(layer) == Form::planes ? (rest - 1) % planes + 1 : 1;
    Pass pass{};
    pass.bits = width * count;
    pass.width = width;
    pass.superblocks = static_cast<int32_t>(superblocks(layer.in_features, width));
    pass.before = before;
    pass.sums_share = bipolar(pass.bits) / bipolar(layer.active);
    if (pass.bits > rest) {
      throw Error(LOWBIT_UNSUPPORTED,
                  "active_bits %d end inside a digit of %d bits; allowed: sums of the first digits' widths",
                  layer.active, width);
    }
    params.passes[params.num_passes++] = pass;
    before += count * pass.superblocks;
    rest -= pass.bits;
    d += count;
  }
}

}  // namespace

void check_whole(const Layer& layer) {
  if (layer.in_features <= kMaxWholeInputs) return;
  throw Error(LOWBIT_UNSUPPORTED, "in_features is %lld; allowed with one scale a row and a token: up to %lld",
              static_cast<long long>(layer.in_features), static_cast<long long>(kMaxWholeInputs));
}

void check_blocks(int64_t blocks, int64_t tokens) {
  if (blocks <= INT32_MAX) return;
  throw Error(LOWBIT_UNSUPPORTED, "%lld tokens need %lld blocks; allowed: up to %d",
              static_cast<long long>(tokens), static_cast<long long>(blocks), INT32_MAX);
}

float offset_factor(const LayerParams& layer, int32_t active_bits, int32_t per_token) {
  return 1.0f / (static_cast<float>(layer.code_factor) * sums_factor(active_bits, per_token));
}

LayerParams layer_params(const Layer& layer, const Result& result, int32_t planes_per_pass,
                         int64_t rows_per_block, int64_t* blocks) {
  LayerParams params{};
  params.in_features = layer.in_features;
  params.units = static_cast<int32_t>(unit_count(layer.in_features, layer.unit));
  params.unit_inputs = static_cast<int32_t>(layer.unit);
  params.code_factor = 2 << (layer.planes - layer.active);
  params.code_offset = -(1 << (layer.planes - layer.active)) * ((1 << layer.active) - 1);
  params.scales_dtype = layer.scales_dtype;
  params.out_scales_dtype = layer.out_scales_dtype;
  params.spans = static_cast<int32_t>(ceil_div(layer.in_features, kSpanInputs));
  add_passes(layer, planes_per_pass, params);
  params.result = result;
  params.num_segments = layer.num_segments;
  int64_t first_column = 0;
  *blocks = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    const Segment& from = layer.segments[s];
    SegmentParams& to = params.segments[s];
    to.tiles = from.tiles;
    to.scales = from.scales;
    to.offsets = from.offsets;
    to.out_scales = from.experts > 0 ? from.out_scales : nullptr;
    to.out_scales_stride = from.out_scales_stride;
    to.first_column = first_column;
    to.rows = static_cast<int32_t>(from.out_features);
    to.first_block = static_cast<int32_t>(*blocks);
    to.experts = from.experts;
    to.set = from.set;
    first_column += from.out_features;
    *blocks += ceil_div(from.out_features, rows_per_block);
  }
  // Indices of rows, blocks and superblocks of a tile are 32 bits wide, everything that counts bytes is 64.
  constexpr int64_t kLargest = int64_t{1} << 30;
  if (first_column > kLargest || layer.in_features > kLargest) {
    throw Error(LOWBIT_UNSUPPORTED, "%lld outputs and %lld inputs; allowed on GPUs: up to %lld each",
                static_cast<long long>(first_column), static_cast<long long>(layer.in_features),
                static_cast<long long>(kLargest));
  }
  return params;
}

}  // namespace lowbit::cuda
