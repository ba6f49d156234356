// Products of vector codebooks in fp32 on the CUDA cores.
//
//   block    8 warps; blockIdx.x: 64 tiles of 16 rows, 8 a warp; blockIdx.y: a range of chunks; blockIdx.z: a
//   token
//
// Per chunk the block multiplies all 256 entries of its 8 pairs with the inputs of the 4 positions of their
// steps, into shared memory; then every lane adds, for the rows it has codes of, the products that its codes
// name:
//
//   products [8 pairs][4 t][256]  <-  entry . inputs            256 threads, one entry each
//   sums of rows g, g + 8         +=  products[i][t][code]      i ascending, chunks ascending
//
// Ranges of chunks leave partial sums in the workspace, which a second launch adds in ascending order.
#include "cuda/activations/reduce.h"
#include "cuda/codebook/values.h"
#include "cuda/codebook/vector.h"
#include "cuda/plan/codebook.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/memory.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kWarps = kSumsWarps;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpTiles = kSumsWarpTiles;
constexpr int kBlockTiles = kSumsBlockTiles;

struct Params {
  VectorWeight weight;
  FloatColumns x;
  Result result;
  float* partial;  // [tokens][ranges][16 tiles]
  int32_t ranges;
  int32_t range_chunks;
};

__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const Params p) {
  static_assert(kThreads == kEntries);
  LOWBIT_SHARED(float, products, kChunkPairs * kStepPositions * kEntries);
  const VectorWeight& weight = p.weight;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4, size = weight.vector_size;
  const int64_t chunks = weight.chunks(), tiles = weight.tiles(), token = blockIdx.z;
  const int64_t first_tile = int64_t{blockIdx.x} * kBlockTiles + warp;
  const int64_t begin = int64_t{blockIdx.y} * p.range_chunks;
  const int64_t end = min(begin + p.range_chunks, chunks);
  wait_for_previous_kernel();
  release_next_kernel();
  const float* const x = p.x.values_of(0, token);

  float sums[kWarpTiles][2] = {};
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    for (int i = 0; i < kChunkPairs; ++i) {
      const int pair = static_cast<int>(chunk) * kChunkPairs + i;
      const int entry = (pair % weight.num_codebooks * kEntries + static_cast<int>(threadIdx.x)) * size;
      const int64_t first = int64_t{pair / weight.num_codebooks} * kStepPositions * size;
      float sum[kStepPositions] = {};
      for (int k = 0; k < size; ++k) {
        const float w = load_value(weight.codebooks, weight.dtype, entry + k);
#pragma unroll
        for (int s = 0; s < kStepPositions; ++s) {
          const int64_t input = first + s * size + k;
          if (input < weight.in_features) sum[s] = fmaf(w, x[input], sum[s]);
        }
      }
#pragma unroll
      for (int s = 0; s < kStepPositions; ++s)
        products[(i * kStepPositions + s) * kEntries + threadIdx.x] = sum[s];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kWarpTiles; ++j) {
      const int64_t tile = first_tile + j * kWarps;
      if (tile >= tiles) continue;
      const uint4 codes = load_stream(weight.codes + (tile * chunks + chunk) * 32 + lane);
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
      for (int i = 0; i < kChunkPairs; ++i) {
        const uint32_t both = words[i / 2] >> (16 * (i % 2));
        const float* const of_lane = products + (i * kStepPositions + t) * kEntries;
        sums[j][0] += of_lane[both & 255];
        sums[j][1] += of_lane[both >> 8 & 255];
      }
    }
    __syncthreads();
  }
  float* const out = p.partial + (token * p.ranges + blockIdx.y) * tiles * kRowTile;
#pragma unroll
  for (int j = 0; j < kWarpTiles; ++j) {
    const int64_t tile = first_tile + j * kWarps;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = reduce_lanes<4>(sums[j][h], Sum{});
      if (t == 0 && tile < tiles) out[tile * kRowTile + lane / 4 + 8 * h] = sum;
    }
  }
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const Params p) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x, token = blockIdx.y;
  wait_for_previous_kernel();
  if (row >= p.weight.out_features) return;
  const int64_t stride = p.weight.tiles() * kRowTile;
  const float* const partial = p.partial + token * p.ranges * stride + row;
  float sum = partial[0];
  for (int range = 1; range < p.ranges; ++range) sum += partial[range * stride];
  store_sum(p.result, token, row, sum * load_value(p.weight.out_scales, p.weight.dtype, row));
}

}  // namespace

void product_floats(const VectorWeight& weight, const FloatColumns& x, const Result& result, float* partial,
                    const Plan& plan, Stream stream) {
  const auto ranges = static_cast<int32_t>(plan.ranges);
  const Params params{weight, x, result, partial, ranges, static_cast<int32_t>(plan.range_chunks)};
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.blocks / ranges), ranges, static_cast<unsigned>(x.tokens));
  shape.block = dim3(kThreads);
  shape.overlaps_previous = true;
  launch(sums_kernel, shape, stream, params);
  shape.grid = dim3(static_cast<unsigned>((weight.out_features + kThreads - 1) / kThreads),
                    static_cast<unsigned>(x.tokens));
  launch(finish_kernel, shape, stream, params);
}

}  // namespace lowbit::cuda::codebook
