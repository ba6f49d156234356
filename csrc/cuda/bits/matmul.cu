// Products of very many tokens: the weight, a tile of rows at a time, becomes fp16 in the workspace, and the
// matrix product that the caller has multiplies it; a last launch makes y of its sums.
//
//   w = value * 2^-e        2^e brings the largest value of a row to 2^14 and more. Scales of units are in
//                           `value`; that of a whole row waits in tile_scales with 2^e, so that whole rows
//                           without offsets, small odd integers, are exact.
#include <algorithm>

#include "cuda/activations/halves.h"
#include "cuda/activations/quantize.h"
#include "cuda/activations/reduce.h"
#include "cuda/bits/epilogue.h"
#include "cuda/bits/fragments.h"

namespace lowbit::cuda {
namespace {

constexpr int kExpandWarps = 8;
constexpr int kExpandThreads = 32 * kExpandWarps;
constexpr int kRowThreads = kExpandThreads / kRowTile;
constexpr int kFinishThreads = 128;

struct MatmulParams {
  LayerParams layer;
  HalfColumns x;
  int32_t segment;
  int32_t first_row;  // of the tile, in the segment
  int32_t rows;
};

// What multiplies the codes of a unit of a row: a scale, and what is added to them before.
struct UnitScale {
  float scale;
  int offset;

  LOWBIT_DEVICE UnitScale(const LayerParams& layer, const SegmentParams& segment, int64_t index)
      : scale(layer.unit_inputs == 0 ? 1.0f : load_value(segment.scales, layer.scales_dtype, index)),
        offset(segment.offsets == nullptr ? 0 : segment.offsets[index]) {}
};

// Bits of a bound of the magnitudes of a row, which kRowThreads neighbouring lanes share.
LOWBIT_DEVICE uint32_t largest_of_row(const LayerParams& layer, const SegmentParams& segment, int64_t row,
                                      int lane) {
  uint32_t largest = 0;
  for (int unit = lane; unit < layer.units; unit += kRowThreads) {
    const UnitScale of(layer, segment, row * layer.units + unit);
    largest =
        Largest{}(largest, magnitude_bits(of.scale * static_cast<float>(abs(of.offset) - layer.code_offset)));
  }
  return reduce_lanes<kRowThreads>(largest, Largest{});
}

// Codes of rows g and g + 8, a byte each, in the order of a step's words: step q of the eight fields of a
// span.
LOWBIT_DEVICE void load_codes(const LayerParams& layer, const SegmentParams& segment, int tile, int span,
                              int q, int lane, uint32_t (&codes)[kSpanFields][4]) {
#pragma unroll
  for (int field = 0; field < kSpanFields; ++field) {
#pragma unroll
    for (int r = 0; r < 4; ++r) codes[field][r] = 0;
  }
#pragma unroll 1
  for (int i = 0; i < layer.num_passes; ++i) {
    const Pass& pass = layer.passes[i];
    const int width = pass.width;
    const uint32_t mask = field_mask(width, 0);
    const uint4* const words = tile_words(segment, pass, tile, span * width, lane) + q * kStepWords;
    uint4 raw{};
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      const int shift = field * width % 8;
      if (shift == 0) raw = load_stream(advance(words, field * width / 8, kSuperblockWords));
      const uint32_t digits[4] = {raw.x >> shift & mask, raw.y >> shift & mask, raw.z >> shift & mask,
                                  raw.w >> shift & mask};
#pragma unroll
      for (int r = 0; r < 4; ++r) codes[field][r] = codes[field][r] << width | digits[r];
    }
  }
}

// A block expands a row tile. Its warps take the steps of 32 inputs of all spans in turn; eight inputs of a
// row are one store of 16 bytes. What lies beyond in_features is finite: activations are zeros there.
__global__ void __launch_bounds__(kExpandThreads) expand_rows(const MatmulParams p) {
  LOWBIT_SHARED(uint32_t, largest, kRowTile);
  const LayerParams& layer = p.layer;
  const SegmentParams& segment = layer.segments[p.segment];
  const int tile = p.first_row / kRowTile + static_cast<int>(blockIdx.x);
  {
    const int i = static_cast<int>(threadIdx.x) / kRowThreads,
              lane = static_cast<int>(threadIdx.x) % kRowThreads;
    const int row = tile * kRowTile + i;
    const uint32_t bits = largest_of_row(layer, segment, row, lane);
    if (lane == 0) {
      largest[i] = bits;
      const bool whole = layer.unit_inputs == 0 && row < segment.rows;
      p.x.tile_scales[row - p.first_row] =
          HalfRange(bits).inverse() * (whole ? row_scale(layer, segment, row) : 1.0f);
    }
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const HalfRange ranges[2] = {HalfRange(largest[lane / 4]), HalfRange(largest[lane / 4 + 8])};
#pragma unroll 1
  for (int step = static_cast<int>(threadIdx.x) / 32; step < layer.spans * kSteps; step += kExpandWarps) {
    const int span = step / kSteps, q = step % kSteps;
    uint32_t codes[kSpanFields][4];
    load_codes(layer, segment, tile, span, q, lane, codes);
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      const int64_t first = int64_t{kSpanInputs} * span + kScaleInputs * field + 32 * q + 8 * (lane & 3);
      if (first >= p.x.row_inputs) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t row = int64_t{kRowTile} * tile + lane / 4 + 8 * i;
        const int64_t unit = layer.unit_inputs == 0 ? 0 : first / layer.unit_inputs;
        const UnitScale of(layer, segment, row * layer.units + unit);
        float values[kOctet];
#pragma unroll
        for (int j = 0; j < kOctet; ++j) {
          const int code = static_cast<int>(codes[field][2 * (j / 4) + i] >> (8 * (j % 4)) & 0xffu);
          values[j] = static_cast<float>(layer.code_factor * code + layer.code_offset + of.offset) * of.scale;
        }
        auto* const to = reinterpret_cast<uint4*>(p.x.tile + (row - p.first_row) * p.x.row_inputs + first);
        *to = ranges[i].pack(values);
      }
    }
  }
}

__global__ void __launch_bounds__(kFinishThreads) finish_rows(const MatmulParams p) {
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row >= p.rows) return;
  const int64_t token = blockIdx.y;
  const SegmentParams& segment = p.layer.segments[p.segment];
  // The smaller one first, or a sum could leave the range of fp32 on its way. NaN stays.
  const float a = p.x.tile_scales[row], b = *p.x.scales_of(segment.set, token);
  const float value = p.x.sums[token * p.rows + row] * (a < b ? a : b) * (a < b ? b : a);
  finish(p.layer, segment, p.x.gates_of(segment.set, token), token, p.first_row + row, value);
}

}  // namespace

void matmul(const Layer& layer, const HalfColumns& x, const Result& result, const lowbit_cuda_device& device,
            Stream stream) {
  if (x.tokens == 0) return;
  int64_t blocks = 0;
  MatmulParams params{layer_params(layer, result, 1, kRowTile, &blocks), x, 0, 0, 0};
  const auto tokens = static_cast<unsigned>(x.tokens);
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    for (int64_t first = 0; first < layer.segments[s].out_features; first += x.tile_rows) {
      const int64_t rows = std::min(x.tile_rows, layer.segments[s].out_features - first);
      params.segment = s;
      params.first_row = static_cast<int32_t>(first);
      params.rows = static_cast<int32_t>(rows);
      launch(expand_rows, {dim3(static_cast<unsigned>(row_tiles(rows))), dim3(kExpandThreads)}, stream,
             params);
      const lowbit_cuda_product product{x.tokens, rows,   x.row_inputs, x.values_of(layer.segments[s].set, 0),
                                        x.tile,   x.sums, stream};
      const lowbit_status status = device.matmul(device.matmul_context, &product);
      if (status != LOWBIT_OK) throw Error(status, "the caller's matrix product failed");
      const auto columns = static_cast<unsigned>((rows + kFinishThreads - 1) / kFinishThreads);
      launch(finish_rows, {dim3(columns, tokens), dim3(kFinishThreads)}, stream, params);
    }
  }
}

}  // namespace lowbit::cuda
