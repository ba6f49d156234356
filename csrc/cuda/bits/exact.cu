// `exact`: fp32 on the CUDA cores, from the same tiles. A block computes one row tile for a few tokens; its
// warps take the groups of 128 inputs in turn.
#include "cuda/bits/epilogue.h"
#include "cuda/bits/fragments.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda {
namespace {

constexpr int kTokens = 4;
constexpr int kWarps = 4;
constexpr int kInputs = 8;  // of a lane in a step, for each of its two rows

struct ExactParams {
  LayerParams layer;
  FloatColumns x;
};

// Codes of rows g and g + 8, inputs 128 group + 32 q + 8 t and the seven after it.
LOWBIT_DEVICE void load_codes(const LayerParams& layer, const SegmentParams& segment, int tile, int group,
                              int q, int lane, int (&codes)[2][kInputs]) {
#pragma unroll
  for (int j = 0; j < kInputs; ++j) codes[0][j] = codes[1][j] = 0;
#pragma unroll 1
  for (int i = 0; i < layer.num_passes; ++i) {
    const Pass& pass = layer.passes[i];
    const int fields = 8 / pass.width;
    const int shift = group % fields * pass.width;
    const int mask = (1 << pass.width) - 1;
    const uint4* const step = tile_words(segment, pass, tile, group / fields, lane) + q * kStepWords;
    const uint4 raw = load_stream(step);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int j = 0; j < kInputs; ++j) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int digit = static_cast<int>(words[2 * (j / 4) + row] >> (8 * (j % 4) + shift)) & mask;
        codes[row][j] = codes[row][j] << pass.width | digit;
      }
    }
  }
}

__global__ void __launch_bounds__(kWarps * 32, 1) exact_product(const ExactParams p) {
  LOWBIT_SHARED(float, shared, kWarps * kTokens * kRowTile);
  const LayerParams& layer = p.layer;
  const SegmentParams& segment = layer.segments[segment_of(layer, blockIdx.x)];
  const int tile = static_cast<int>(blockIdx.x) - segment.first_block;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int first_token = blockIdx.y * kTokens;
  const int last_token = static_cast<int>(p.x.tokens) - 1;
  const int groups = static_cast<int>((layer.in_features + kScaleInputs - 1) / kScaleInputs);

  float sums[kTokens][2] = {};
  wait_for_previous_kernel();
  for (int group = warp; group < groups; group += kWarps) {
#pragma unroll 1
    for (int q = 0; q < kSteps; ++q) {
      const int first = kScaleInputs * group + 32 * q + 8 * (lane & 3);
      int codes[2][kInputs];
      load_codes(layer, segment, tile, group, q, lane, codes);
      float weights[2][kInputs];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t row = int64_t{kRowTile} * tile + lane / 4 + 8 * i;
        const int64_t unit = row * layer.units + (layer.unit_inputs == 0 ? 0 : first / layer.unit_inputs);
        const bool scaled = segment.scales != nullptr && (layer.unit_inputs != 0 || row < segment.rows);
        const float scale = scaled ? load_value(segment.scales, layer.scales_dtype, unit) : 1.0f;
        const int offset = layer.code_offset + (segment.offsets == nullptr ? 0 : segment.offsets[unit]);
#pragma unroll
        for (int j = 0; j < kInputs; ++j) {
          weights[i][j] = static_cast<float>(layer.code_factor * codes[i][j] + offset) * scale;
        }
      }
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        const float* const x = p.x.values_of(segment.set, min(first_token + m, last_token)) + first;
        const uint4 raw[2] = {load_cached(reinterpret_cast<const uint4*>(x)),
                              load_cached(reinterpret_cast<const uint4*>(x + 4))};
#pragma unroll
        for (int j = 0; j < kInputs; ++j) {
          const uint4& half = raw[j / 4];
          const uint32_t bits = j % 4 == 0 ? half.x : j % 4 == 1 ? half.y : j % 4 == 2 ? half.z : half.w;
          sums[m][0] = fmaf(weights[0][j], __uint_as_float(bits), sums[m][0]);
          sums[m][1] = fmaf(weights[1][j], __uint_as_float(bits), sums[m][1]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = sums[m][i];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if ((lane & 3) == 0) shared[(warp * kTokens + m) * kRowTile + lane / 4 + 8 * i] = sum;
    }
  }
  __syncthreads();
  release_next_kernel();
  const int row = tile * kRowTile + threadIdx.x % kRowTile, m = threadIdx.x / kRowTile;
  if (m >= kTokens || first_token + m > last_token || row >= segment.rows) return;
  float sum = shared[m * kRowTile + threadIdx.x % kRowTile];
  for (int w = 1; w < kWarps; ++w) sum += shared[(w * kTokens + m) * kRowTile + threadIdx.x % kRowTile];
  finish(layer, segment, p.x.gates_of(segment.set, first_token + m), first_token + m, row, sum);
}

}  // namespace

void exact(const Layer& layer, const FloatColumns& x, const Result& result, Stream stream) {
  if (x.tokens == 0) return;
  int64_t blocks = 0;
  const ExactParams params{layer_params(layer, result, 1, kRowTile, &blocks), x};
  constexpr int64_t kMostTokens = int64_t{65535} * kTokens;
  if (x.tokens > kMostTokens) {
    throw Error(LOWBIT_UNSUPPORTED, "%lld tokens in one launch; allowed: up to %lld",
                static_cast<long long>(x.tokens), static_cast<long long>(kMostTokens));
  }
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((x.tokens + kTokens - 1) / kTokens));
  shape.block = dim3(kWarps * 32);
  shape.overlaps_previous = true;
  launch(exact_product, shape, stream, params);
}

}  // namespace lowbit::cuda
