#include <algorithm>

#include "cuda/activations/halves.h"
#include "cuda/activations/quantize.h"
#include "cuda/activations/reduce.h"
#include "cuda/codebook/matmul.h"
#include "cuda/codebook/tables.h"
#include "cuda/codebook/values.h"
#include "cuda/error.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kExpandWarps = 8;
constexpr int kExpandThreads = 32 * kExpandWarps;
constexpr int kRowThreads = kExpandThreads / kRowTile;
constexpr int kFinishThreads = 128;

// Rows [first_row, first_row + rows) of the weight, in a tile of row tiles.
template <class Weight>
struct Rows {
  Weight weight;
  cuda::HalfColumns x;
  int64_t first_row;
  int64_t rows;

  LOWBIT_DEVICE int64_t first_of_block() const { return first_row + int64_t{kRowTile} * blockIdx.x; }
  // Where input `input` of row `row` of the block lies.
  LOWBIT_DEVICE __half* at(int row, int64_t input) const {
    return x.tile + (int64_t{kRowTile} * blockIdx.x + row) * x.row_inputs + input;
  }
  LOWBIT_DEVICE float& scale_of(int row) const { return x.tile_scales[kRowTile * blockIdx.x + row]; }
};

// Bits of a bound of the magnitudes of a row, which kRowThreads neighbouring lanes share: its largest entry
// and its largest outlier.
LOWBIT_DEVICE uint32_t largest_of_row(const ScalarWeight& weight, const float* table, int64_t row, int lane) {
  float entry = 0.0f, outlier = 0.0f;
  for (int i = lane; i < 1 << weight.bits; i += kRowThreads) entry = fmaxf(entry, fabsf(table[i]));
  if (weight.outlier_offsets != nullptr && row < weight.out_features) {
    for (int i = weight.outlier_offsets[row] + lane; i < weight.outlier_offsets[row + 1]; i += kRowThreads) {
      outlier = fmaxf(outlier, fabsf(load_value(weight.outlier_values, weight.outlier_values_dtype, i)));
    }
  }
  return magnitude_bits(reduce_lanes<kRowThreads>(entry, Largest{}) +
                        reduce_lanes<kRowThreads>(outlier, Largest{}));
}

// A block expands 16 rows. Lanes have eight inputs of two of them at a time, in the order of
// codebook/tables.h; inputs beyond in_features have entry 0, which is finite. Told of no number of blocks,
// the compiler spills for the sake of one more.
__global__ void __launch_bounds__(kExpandThreads, 1) expand_scalar(const Rows<ScalarWeight> p) {
  const ScalarWeight& weight = p.weight;
  const int entries = 1 << weight.bits;
  LOWBIT_DYNAMIC_SHARED(float, tables);  // [16][entries]
  LOWBIT_SHARED(uint32_t, largest, kRowTile);
  const int64_t first_row = p.first_of_block();
  for (int i = threadIdx.x; i < kRowTile * entries; i += kExpandThreads) {
    tables[i] = first_row + i / entries < weight.out_features
                    ? load_value(weight.tables, weight.tables_dtype, first_row * entries + i)
                    : 0.0f;
  }
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x) / kRowThreads,
            own_lane = static_cast<int>(threadIdx.x) % kRowThreads;
  const uint32_t bits = largest_of_row(weight, tables + own * entries, first_row + own, own_lane);
  if (own_lane == 0) {
    largest[own] = bits;
    p.scale_of(own) = HalfRange(bits).inverse();
  }
  __syncthreads();

  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const HalfRange ranges[2] = {HalfRange(largest[g]), HalfRange(largest[g + 8])};
  const int superblocks = static_cast<int>((weight.in_features + kSuperblock - 1) / kSuperblock);
  const uint4* const tile = weight.tiles + first_row / kRowTile * superblocks * weight.bits * 32 + lane;
#pragma unroll 1
  for (int s = threadIdx.x / 32; s < superblocks; s += kExpandWarps) {
    const auto* const words = reinterpret_cast<const uint32_t*>(tile + int64_t{s} * weight.bits * 32);
#pragma unroll 1
    for (int step = 0; step < 8; ++step) {
      const int64_t input = int64_t{kSuperblock} * s + 32 * step + 8 * t;
      if (input >= p.x.row_inputs) continue;
      uint32_t codes[2][2];  // of four inputs each: [half][row]
      load_codes(words, weight.bits, 2 * step, codes[0]);
      load_codes(words, weight.bits, 2 * step + 1, codes[1]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* const table = tables + (g + 8 * i) * entries;
        float values[kOctet];
#pragma unroll
        for (int j = 0; j < kOctet; ++j) values[j] = table[codes[j / 4][i] >> (8 * (j % 4)) & 255];
        *reinterpret_cast<uint4*>(p.at(g + 8 * i, input)) = ranges[i].pack(values);
      }
    }
  }
  if (weight.outlier_offsets == nullptr) return;
  __syncthreads();
  // One thread a row, as a column may be there twice.
  const int row = static_cast<int>(threadIdx.x);
  if (row >= kRowTile || first_row + row >= weight.out_features) return;
  const float factor = HalfRange(largest[row]).factor();
  for (int i = weight.outlier_offsets[first_row + row]; i < weight.outlier_offsets[first_row + row + 1];
       ++i) {
    __half& value = *p.at(row, weight.outlier_columns[i]);
    const float outlier = load_value(weight.outlier_values, weight.outlier_values_dtype, i);
    value = __float2half_rn(fmaf(outlier, factor, __half2float(value)));
  }
}

// A lane has the vector of one position in two rows. Sums of `codebooks` entries below 2^15 each are divided
// by a power of two that keeps them there.
template <int kSize>
__global__ void __launch_bounds__(kExpandThreads) expand_vector(const Rows<VectorWeight> p) {
  const VectorWeight& weight = p.weight;
  const int64_t first_row = p.first_of_block(), tile = first_row / kRowTile, chunks = weight.chunks();
  int shift = 0;
  while (1 << shift < weight.num_codebooks) ++shift;
  const float factor = 1.0f / static_cast<float>(1 << shift);
  if (threadIdx.x < kRowTile) {
    const int64_t row = min(first_row + threadIdx.x, weight.out_features - 1);
    p.scale_of(threadIdx.x) = *weight.halves_scale * static_cast<float>(1 << shift) *
                              load_value(weight.out_scales, weight.dtype, row);
  }
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto* const codes = reinterpret_cast<const uint8_t*>(weight.codes + tile * chunks * 32 + lane);
  const auto* const entries = reinterpret_cast<const __half*>(weight.halves);
  const int64_t steps = weight.steps();
#pragma unroll 1
  for (int64_t step = threadIdx.x / 32; step * kStepPositions * kSize < p.x.row_inputs;
       step += kExpandWarps) {
    float values[2][kSize] = {};
    if (step < steps) {
#pragma unroll 1
      for (int book = 0; book < weight.num_codebooks; ++book) {
        const int64_t pair = step * weight.num_codebooks + book;
        const uint8_t* const both = codes + pair / kChunkPairs * 512 + pair % kChunkPairs * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const __half* const entry = entries + (int64_t{book} * kEntries + both[i]) * kSize;
#pragma unroll
          for (int j = 0; j < kSize; ++j) values[i][j] += __half2float(entry[j]);
        }
      }
    }
    const int64_t input = (step * kStepPositions + t) * kSize;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t words[kSize / 2];
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const uint32_t half = __half_as_ushort(__float2half_rn(values[i][j] * factor));
        words[j / 2] = j % 2 == 0 ? half : words[j / 2] | half << 16;
      }
      auto* const to = reinterpret_cast<uint2*>(p.at(g + 8 * i, input));
#pragma unroll
      for (int j = 0; j < kSize / 4; ++j) to[j] = {words[2 * j], words[2 * j + 1]};
    }
  }
}

template <class Weight>
__global__ void __launch_bounds__(kFinishThreads) finish_rows(const Rows<Weight> p, const Result result) {
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row >= p.rows) return;
  const int64_t token = blockIdx.y;
  // The smaller one first, or a sum could leave the range of fp32 on its way. NaN stays.
  const float a = p.x.tile_scales[row], b = *p.x.scales_of(0, token);
  const bool a_first = fabsf(a) < b;
  const float sum = p.x.sums[token * p.rows + row] * (a_first ? a : b) * (a_first ? b : a);
  store_sum(result, token, p.first_row + row, sum);
}

// expand(rows, blocks) for tile after tile, and what follows it.
template <class Weight, class Expand>
void multiply(const Weight& weight, const cuda::HalfColumns& x, const Result& result,
              const lowbit_cuda_device& device, Stream stream, const Expand& expand) {
  const auto tokens = static_cast<unsigned>(x.tokens);
  for (int64_t first = 0; first < weight.out_features && tokens > 0; first += x.tile_rows) {
    const Rows<Weight> rows{weight, x, first, std::min(x.tile_rows, weight.out_features - first)};
    expand(rows, dim3(static_cast<unsigned>((rows.rows + kRowTile - 1) / kRowTile)));
    const lowbit_cuda_product product{x.tokens, rows.rows, x.row_inputs, x.values, x.tile, x.sums, stream};
    const lowbit_status status = device.matmul(device.matmul_context, &product);
    if (status != LOWBIT_OK) throw Error(status, "the caller's matrix product failed");
    const auto columns = static_cast<unsigned>((rows.rows + kFinishThreads - 1) / kFinishThreads);
    launch(finish_rows<Weight>, {dim3(columns, tokens), dim3(kFinishThreads)}, stream, rows, result);
  }
}

}  // namespace

void product_matmul(const ScalarWeight& weight, const cuda::HalfColumns& x, const Result& result,
                    const lowbit_cuda_device& device, Stream stream) {
  multiply(weight, x, result, device, stream, [&](const Rows<ScalarWeight>& rows, dim3 blocks) {
    Shape shape{blocks, dim3(kExpandThreads)};
    shape.dynamic_shared = sizeof(float) * kRowTile << weight.bits;
    launch(expand_scalar, shape, stream, rows);
  });
}

void product_matmul(const VectorWeight& weight, const cuda::HalfColumns& x, const Result& result,
                    const lowbit_cuda_device& device, Stream stream) {
  multiply(weight, x, result, device, stream, [&](const Rows<VectorWeight>& rows, dim3 blocks) {
    launch(weight.vector_size == 4 ? expand_vector<4> : expand_vector<8>, {blocks, dim3(kExpandThreads)},
           stream, rows);
  });
}

}  // namespace lowbit::cuda::codebook
