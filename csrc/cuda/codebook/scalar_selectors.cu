// Products of scalar codebooks on integer tensor cores: selectors from codes, bytes of table entries from
// selectors.
//
//   block   warps 0 .. W - 1 share one tile of 16 rows; warp w takes superblocks w, w + W, ... and their sums
//   meet in
//           shared memory in ascending order. blockIdx.y counts blocks of 8 kColumnTiles columns.
//
// Per superblock, group of 128 inputs and step of 32, a warp multiplies two 16 x 32 matrices (t1 and t0 of
// the table entries) by 8 columns for each column tile:
//
//   4 selectors of a nibble word's half ---PRMT on the row's 8 bytes t1---> one register of A (t1)
//                                      \--PRMT on the row's 8 bytes t0---> the same register of A (t0)
//
// With 4 bits a table has two halves of 8 entries. PRMT itself tells them apart: where a selector's highest
// bit is set it yields the sign of the selected byte, 0 or -1, instead of the byte. So each half is looked up
// by selectors whose highest bit is set wherever the other half is meant, both results are multiplied, and
// repacking has corrected the entries for the sign of their partners (scalar_repack.cu). No select, no mask,
// and the product adds for free.
//
// `high` (two columns a token, one scale a token): the int32 accumulators run over all inputs of the warp,
// |sum| <= 128 * 128 * inputs, so inputs <= 2^17 a warp. Exact. `fast` (a scale per 128 inputs): t1 and t0 of
// a group meet in an int32, exact as well, and groups add in fp32 in ascending order.
//
// W depends on the shape and the number of multiprocessors only, so a row's bits do not depend on the tokens.
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/tables.h"
#include "cuda/codebook/values.h"
#include "cuda/plan/codebook.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/memory.h"
#include "cuda/ptx/mma.h"

namespace lowbit::cuda::codebook {
namespace {

struct Params {
  const uint4* tiles;
  const int8_t* digits;
  const float* row_scales;
  int64_t out_features;
  int32_t superblocks;
  Columns x;
  const float* outlier_sums;
  Result result;
};

// The bytes of one table: 4 entries (2 bits: `low` alone), 8, or two halves of 8.
template <int kBits>
struct Bytes {
  uint32_t low[2];
  uint32_t high[kBits == 4 ? 2 : 1];

  LOWBIT_DEVICE explicit Bytes(const int8_t* digits) {
    const auto* const words = reinterpret_cast<const uint32_t*>(digits);
    low[0] = words[0];
    low[1] = kBits == 2 ? low[0] : words[1];
    if constexpr (kBits == 4) {
      high[0] = words[2];
      high[1] = words[3];
    }
  }
};

// t1 and t0 of rows g and g + 8 of the lane.
template <int kBits>
struct Tables {
  Bytes<kBits> rows[2][2];  // [row][t1, t0]

  LOWBIT_DEVICE Tables(const int8_t* digits, int64_t row)
      : rows{{Bytes<kBits>(at(digits, row, 0)), Bytes<kBits>(at(digits, row, 1))},
             {Bytes<kBits>(at(digits, row + 8, 0)), Bytes<kBits>(at(digits, row + 8, 1))}} {}

 private:
  static LOWBIT_DEVICE const int8_t* at(const int8_t* digits, int64_t row, int digit) {
    return digits + (2 * row + digit) * (1 << kBits);
  }
};

// Adds one step of 32 inputs: words are its two nibble words.
template <int kBits, int kColumnTiles>
LOWBIT_DEVICE void add_step(const Tables<kBits>& tables, uint32_t word0, uint32_t word1,
                            const uint32_t (&b)[kColumnTiles][2], int (&sums)[kColumnTiles][2][4]) {
  const uint32_t selectors[4] = {word0, word0 >> 16, word1, word1 >> 16};
#pragma unroll
  for (int digit = 0; digit < 2; ++digit) {
    uint32_t a[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const Bytes<kBits>& bytes = tables.rows[r & 1][digit];
      a[r] = permute_bytes(bytes.low[0], bytes.low[1], selectors[r]);
    }
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) mma_s8s8(sums[c][digit], a, b[c]);
  }
  if constexpr (kBits == 4) {
    constexpr uint32_t kOtherHalf = 0x88888888u;
    const uint32_t other0 = word0 ^ kOtherHalf, other1 = word1 ^ kOtherHalf;
    const uint32_t others[4] = {other0, other0 >> 16, other1, other1 >> 16};
#pragma unroll
    for (int digit = 0; digit < 2; ++digit) {
      uint32_t a[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const Bytes<kBits>& bytes = tables.rows[r & 1][digit];
        a[r] = permute_bytes(bytes.high[0], bytes.high[1], others[r]);
      }
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) mma_s8s8(sums[c][digit], a, b[c]);
    }
  }
}

template <int kColumnTiles>
LOWBIT_DEVICE void clear(int (&sums)[kColumnTiles][2][4]) {
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[c][0][i] = sums[c][1][i] = 0;
  }
}

template <int kBits, int kColumnTiles, bool kFast>
__global__ void __launch_bounds__(32 * most_selector_warps(kBits, kColumnTiles),
                                  most_selector_warps(kBits, kColumnTiles) == 4 ? 3 : 0)
    selectors_kernel(const Params p) {
  // Per lane and column tile: `high` has the sums of 2 rows and 1 token, `fast` of 2 rows and 2 tokens.
  using Total = std::conditional_t<kFast, float, int64_t>;
  constexpr int kTotals = kColumnTiles * (kFast ? 4 : 2);
  LOWBIT_DYNAMIC_SHARED(Total, totals);  // [warps][kTotals][32 lanes]

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int g = lane / 4, t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.x} * kTileRows;
  const uint4* const tile = p.tiles + static_cast<int64_t>(blockIdx.x) * p.superblocks * kBits * 32 + lane;

  // The next superblock's codes are on their way while this one's are multiplied: they are loaded as soon as
  // the registers that they go to have been read.
  const uint4* weight = tile + int64_t{warp} * kBits * 32;
  uint4 codes[kBits] = {};
  if (warp < p.superblocks) {
#pragma unroll
    for (int b = 0; b < kBits; ++b) codes[b] = load_stream(weight + b * 32);
  }
  const Tables<kBits> tables(p.digits, first_row + g);

  wait_for_previous_kernel();
  // Columns past the last one are computed from it and dropped.
  const int64_t first_column = int64_t{blockIdx.y} * 8 * kColumnTiles;
  const int64_t last_column = p.x.count() - 1;
  constexpr int kGroupLoads = kGroupBytes / 16;
  const uint4* x = reinterpret_cast<const uint4*>(p.x.codes_of(0, first_column)) + warp * 2 * kGroupLoads + t;
  const float2* const scales = reinterpret_cast<const float2*>(p.x.scales_of(0, first_column));
  int x_offsets[kColumnTiles], scale_offsets[kColumnTiles][2];
  float sums[kColumnTiles][4];
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
    const int last = static_cast<int>(min(last_column - first_column, int64_t{8} * kColumnTiles));
    const int column = min(8 * c + g, last);
    x_offsets[c] = static_cast<int>(p.x.codes_of(0, column) - p.x.codes_of(0, 0)) / 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = min(8 * c + 2 * t + i, last);
      scale_offsets[c][i] = static_cast<int>(p.x.scales_of(0, column) - p.x.scales_of(0, 0)) / 2;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[c][i] = 0.0f;
  }

  int products[kColumnTiles][2][4];
  clear(products);
#pragma unroll 1
  for (int superblock = warp; superblock < p.superblocks; superblock += warps) {
    weight += warps * kBits * 32;
    float2 group_scales[kColumnTiles][2];
    if constexpr (kFast) {
      const float2* const first = scales + Columns::place_of(2 * superblock) / 2;
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          group_scales[c][i] = first[scale_offsets[c][i]];
        }
      }
    }
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      uint32_t words[4];
      nibble_words<kBits>(codes, part, words);
      if (superblock + warps < p.superblocks) {
#pragma unroll
        for (int b = 0; b < kBits; ++b) {
          if (last_part<kBits>(b) == part) codes[b] = load_stream(weight + b * 32);
        }
      }
      uint32_t steps[2][kColumnTiles][2];
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        const uint4 b = load_cached(x + x_offsets[c] + kGroupLoads / 2 * part);
        steps[0][c][0] = b.x;
        steps[0][c][1] = b.y;
        steps[1][c][0] = b.z;
        steps[1][c][1] = b.w;
      }
      add_step<kBits>(tables, words[0], words[1], steps[0], products);
      add_step<kBits>(tables, words[2], words[3], steps[1], products);
      if (kFast && part % 2 == 1) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 both = group_scales[c][i % 2];
            const int sum = products[c][0][i] * kDigitBase + products[c][1][i];
            sums[c][i] = fmaf(static_cast<float>(sum), part < 2 ? both.x : both.y, sums[c][i]);
          }
        }
        clear(products);
      }
    }
    x += warps * 2 * kGroupLoads;
  }

#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < (kFast ? 4 : 2); ++i) {
      Total total;
      if constexpr (kFast) {
        total = sums[c][i];
      } else {
        // Columns 2 t and 2 t + 1 are the two columns of a token.
        const auto value = [&](int j) { return int64_t{products[c][0][j]} * kDigitBase + products[c][1][j]; };
        total = 256 * value(2 * i) + value(2 * i + 1);
      }
      totals[(warp * kTotals + c * (kFast ? 4 : 2) + i) * 32 + lane] = total;
    }
  }
  __syncthreads();

  for (int e = threadIdx.x; e < kTotals * 32; e += blockDim.x) {
    Total total = totals[e];
    for (int w = 1; w < warps; ++w) total += totals[w * kTotals * 32 + e];
    const int from = e % 32, c = e / 32 / (kFast ? 4 : 2), i = e / 32 % (kFast ? 4 : 2);
    const int64_t row = first_row + from / 4 + 8 * (kFast ? i / 2 : i);
    const int64_t token =
        kFast ? first_column + 8 * c + 2 * (from % 4) + i % 2 : first_column / 2 + 4 * c + from % 4;
    if (row >= p.out_features || token >= p.x.tokens) continue;
    float sum = static_cast<float>(total);
    if constexpr (!kFast) sum *= *p.x.scales_of(0, token);
    sum *= p.row_scales[row];
    if (p.outlier_sums != nullptr) sum += p.outlier_sums[token * p.out_features + row];
    store_sum(p.result, token, row, sum);
  }
}

template <int kBits>
auto kernel_of(bool fast, bool wide) {
  if (fast) return wide ? selectors_kernel<kBits, 2, true> : selectors_kernel<kBits, 1, true>;
  return wide ? selectors_kernel<kBits, 4, false> : selectors_kernel<kBits, 1, false>;
}

}  // namespace

void product_selectors(const ScalarProduct& product, const Plan& plan, Stream stream) {
  const ScalarWeight& weight = product.weight;
  const Params params{weight.tiles,
                      weight.digits,
                      weight.row_scales,
                      weight.out_features,
                      static_cast<int32_t>((weight.in_features + kSuperblock - 1) / kSuperblock),
                      product.x.columns,
                      product.outlier_sums,
                      product.result};
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.passes));
  shape.block = dim3(32 * plan.input_warps);
  shape.dynamic_shared = plan.shared_bytes;
  shape.overlaps_previous = true;
  const bool fast = product.x.columns.per_token == 1, wide = plan.column_tiles > 1;
  const auto kernel = weight.bits == 2   ? kernel_of<2>(fast, wide)
                      : weight.bits == 3 ? kernel_of<3>(fast, wide)
                                         : kernel_of<4>(fast, wide);
  launch(kernel, shape, stream, params);
}

}  // namespace lowbit::cuda::codebook
