// Products of scalar codebooks in fp32 on the CUDA cores: `exact`, and tables that have no selectors.
//
//   block   8 warps share one tile of 16 rows and its tables in shared memory; warp w takes superblocks w, w
//   + 8, ...
//           blockIdx.y counts blocks of 8 tokens, whose sums are in registers.
//
// A lane multiplies its codes' entries in ascending order, then lanes of a row and then warps add in a fixed
// order.
#include "cuda/activations/reduce.h"
#include "cuda/codebook/activations.h"
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/tables.h"
#include "cuda/codebook/values.h"
#include "cuda/plan/codebook.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kWarps = kFloatsWarps;
constexpr int kTokens = kFloatsTokens;

struct Params {
  ScalarProduct product;
  int32_t superblocks;
};

__global__ void __launch_bounds__(32 * kWarps) floats_kernel(const Params p) {
  const ScalarWeight& weight = p.product.weight;
  const int entries = 1 << weight.bits;
  LOWBIT_DYNAMIC_SHARED(float, tables);  // [16][entries]
  LOWBIT_SHARED(float, partial, kWarps * kTokens * kTileRows);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.x} * kTileRows, first_token = int64_t{blockIdx.y} * kTokens;
  for (int i = threadIdx.x; i < kTileRows * entries; i += 32 * kWarps) {
    const int64_t row = first_row + i / entries;
    tables[i] = row < weight.out_features
                    ? load_value(weight.tables, weight.tables_dtype, first_row * entries + i)
                    : 0.0f;
  }
  __syncthreads();
  wait_for_previous_kernel();

  float sums[2][kTokens] = {};
  for (int s = warp; s < p.superblocks; s += kWarps) {
    const auto* const words = reinterpret_cast<const uint32_t*>(
        weight.tiles + ((static_cast<int64_t>(blockIdx.x) * p.superblocks + s) * weight.bits) * 32 + lane);
#pragma unroll 1
    for (int j = 0; j < 16; ++j) {
      uint32_t codes[2];
      load_codes(words, weight.bits, j, codes);
      float w[2][4];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          w[row][i] = tables[(g + 8 * row) * entries + (codes[row] >> (8 * i) & 255)];
      }
      const int quad = s * (kSuperblock / 4) + j / 2 * 8 + 2 * t + j % 2;
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        if (first_token + m >= p.product.tokens) continue;
        const float4 x = load_quad(p.product.x, first_token + m, quad);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float& sum = sums[row][m];
          sum = fmaf(w[row][0], x.x, sum);
          sum = fmaf(w[row][1], x.y, sum);
          sum = fmaf(w[row][2], x.z, sum);
          sum = fmaf(w[row][3], x.w, sum);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float sum = reduce_lanes<4>(sums[row][m], Sum{});
      if (t == 0) partial[(warp * kTokens + m) * kTileRows + g + 8 * row] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kTokens * kTileRows) return;
  float sum = partial[threadIdx.x];
  for (int w = 1; w < kWarps; ++w) sum += partial[w * kTokens * kTileRows + threadIdx.x];
  const int64_t row = first_row + threadIdx.x % kTileRows, token = first_token + threadIdx.x / kTileRows;
  if (row >= weight.out_features || token >= p.product.tokens) return;
  if (p.product.outlier_sums != nullptr) sum += p.product.outlier_sums[token * weight.out_features + row];
  store_sum(p.product.result, token, row, sum);
}

}  // namespace

void product_floats(const ScalarProduct& product, const Plan& plan, Stream stream) {
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.passes));
  shape.block = dim3(32 * plan.input_warps);
  shape.dynamic_shared = plan.shared_bytes;
  shape.overlaps_previous = true;
  const int64_t superblocks = (product.weight.in_features + kSuperblock - 1) / kSuperblock;
  launch(floats_kernel, shape, stream, {product, static_cast<int32_t>(superblocks)});
}

}  // namespace lowbit::cuda::codebook
