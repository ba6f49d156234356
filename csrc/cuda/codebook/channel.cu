#include "cuda/codebook/channel.h"
#include "cuda/codebook/dense.h"
#include "cuda/codebook/values.h"
#include "cuda/plan/codebook.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kThreads = 32 * kDenseWarps;
static_assert(kThreads == kLabelLanes * kLabelsOfBlock);

LOWBIT_DEVICE int64_t load_label(const lowbit_codebook_channel& weight, int64_t index) {
  if (weight.label_bytes == 1) return static_cast<const uint8_t*>(weight.labels)[index];
  if (weight.label_bytes == 2) return static_cast<const uint16_t*>(weight.labels)[index];
  return static_cast<const uint32_t*>(weight.labels)[index];
}

// Where the inputs of each label begin, and a stable sort of the inputs by label: each thread counts what
// comes before its own. Quadratic, once per layer: 65,536 inputs are 2^32 comparisons.
__global__ void __launch_bounds__(kThreads)
    order_kernel(const lowbit_codebook_channel weight, int32_t* order) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t inputs = weight.in_features, clusters = weight.clusters;
  if (index < inputs) {
    const int64_t label = load_label(weight, index);
    int32_t before = 0;
    for (int64_t k = 0; k < inputs; ++k) {
      const int64_t other = load_label(weight, k);
      before += other < label || (other == label && k < index);
    }
    order[clusters + 1 + before] = static_cast<int32_t>(index);
  } else if (index <= inputs + clusters) {
    int32_t before = 0;
    for (int64_t k = 0; k < inputs; ++k) before += load_label(weight, k) < index - inputs;
    order[index - inputs] = before;
  }
}

struct Params {
  ChannelProduct product;
  Rows x;
  int32_t width;         // clusters + rank
  int32_t dense_rows;    // of launch 1
  int32_t dense_blocks;  // blocks from here on sum by label
  int32_t warps;         // that share kDenseRows rows
};

LOWBIT_DEVICE int tokens_here(const Params& p) {
  const int64_t left = p.product.x.rows - int64_t{blockIdx.y} * kDenseTokens;
  return static_cast<int>(left < kDenseTokens ? left : kDenseTokens);
}

// Eight lanes sum the inputs of one label, for all tokens of the block.
LOWBIT_DEVICE void sum_by_label(const Params& p) {
  const int lane = threadIdx.x % kLabelLanes, tokens = tokens_here(p);
  const int64_t first_token = int64_t{blockIdx.y} * kDenseTokens;
  const int64_t clusters = p.product.weight.clusters;
  const int64_t label = (int64_t{blockIdx.x} - p.dense_blocks) * kLabelsOfBlock + threadIdx.x / kLabelLanes;
  const bool exists = label < clusters;
  const int begin = exists ? p.product.order[label] : 0, end = exists ? p.product.order[label + 1] : 0;
  const int32_t* const inputs = p.product.order + clusters + 1;
  for (int m = 0; m < tokens; ++m) {
    float sum = 0.0f;
    for (int i = begin + lane; i < end; i += kLabelLanes) {
      sum += load_value(p.x.data, p.x.dtype, (first_token + m) * p.x.stride + inputs[i]);
    }
    sum = reduce_lanes<kLabelLanes>(sum, Sum{});
    if (exists && lane == 0) p.product.parts[(first_token + m) * p.width + label] = sum;
  }
}

// Launch 1.
__global__ void __launch_bounds__(kThreads) parts_kernel(const Params p) {
  LOWBIT_SHARED(float, partial, kDenseWarps* kDenseSums);
  release_next_kernel();
  if (static_cast<int>(blockIdx.x) >= p.dense_blocks) return sum_by_label(p);

  const lowbit_codebook_channel& weight = p.product.weight;
  const int group = static_cast<int>(threadIdx.x) / (32 * p.warps), tokens = tokens_here(p);
  const int first_row = (static_cast<int>(blockIdx.x) * (kDenseWarps / p.warps) + group) * kDenseRows;
  const int64_t first_token = int64_t{blockIdx.y} * kDenseTokens;
  // Centroids come first with axis 0; with axis 1 all rows are low_rank_in's. Rows past the last repeat it.
  const int centroids = p.dense_rows - static_cast<int>(weight.rank);
  const auto row_of = [&](int r) {
    const int row = min(first_row + r, p.dense_rows - 1);
    const void* const matrix = row < centroids ? weight.weight : weight.low_rank_in;
    return Rows{matrix, weight.dtype, weight.in_features, weight.in_features}.row(
        row < centroids ? row : row - centroids);
  };
  const Row rows[kDenseRows] = {row_of(0), row_of(1), row_of(2), row_of(3)};
  DenseSums sums;
  sums.add(rows, p.x, first_token, tokens, threadIdx.x % (32 * p.warps), 32 * p.warps);
  sums.finish(tokens, p.warps, partial, [&](int r, int m, float sum) {
    const int row = first_row + r;
    const int64_t column = row < centroids ? row : weight.clusters + row - centroids;
    if (row < p.dense_rows) p.product.parts[(first_token + m) * p.width + column] = sum;
  });
}

// Launch 2 with axis 0: eight lanes share a row; lane m of them finishes token m.
__global__ void __launch_bounds__(kThreads) gather_kernel(const Params p) {
  static_assert(kLabelLanes == kDenseTokens);
  const lowbit_codebook_channel& weight = p.product.weight;
  const int lane = threadIdx.x % kLabelLanes, tokens = tokens_here(p);
  const int64_t row = int64_t{blockIdx.x} * kLabelsOfBlock + threadIdx.x / kLabelLanes;
  const int64_t first_token = int64_t{blockIdx.y} * kDenseTokens;
  const bool exists = row < weight.out_features;
  const int64_t label = exists ? load_label(weight, row) : 0;
  const Rows low_rank{weight.low_rank_out, weight.dtype, weight.rank, exists ? weight.rank : 0};
  const Rows low_parts{p.product.parts + weight.clusters, LOWBIT_F32, p.width, weight.rank};

  wait_for_previous_kernel();
  float sums[kDenseTokens] = {};
  for (int octet = lane; octet * kOctet < weight.rank; octet += kLabelLanes) {
    float w[kOctet];
    widen(low_rank.row(exists ? row : 0).load(octet), weight.dtype, w);
#pragma unroll
    for (int m = 0; m < kDenseTokens; ++m) {
      if (m >= tokens) continue;
      float values[kOctet];
      widen(low_parts.row(first_token + m).load(octet), LOWBIT_F32, values);
#pragma unroll
      for (int i = 0; i < kOctet; ++i) sums[m] = fmaf(w[i], values[i], sums[m]);
    }
  }
  float mine = 0.0f;
#pragma unroll
  for (int m = 0; m < kDenseTokens; ++m) {
    const float sum = reduce_lanes<kLabelLanes>(sums[m], Sum{});
    if (lane == m) mine = sum;
  }
  if (!exists || lane >= tokens) return;
  const float product = p.product.parts[(first_token + lane) * p.width + label];
  store_sum(p.product.result, first_token + lane, row, product + mine);
}

// Launch 2 with axis 1.
__global__ void __launch_bounds__(kThreads) sums_kernel(const Params p) {
  LOWBIT_SHARED(float, partial, kDenseWarps* kDenseSums);
  const lowbit_codebook_channel& weight = p.product.weight;
  const int group = static_cast<int>(threadIdx.x) / (32 * p.warps), tokens = tokens_here(p);
  const int64_t first_row = (int64_t{blockIdx.x} * (kDenseWarps / p.warps) + group) * kDenseRows;
  const int64_t first_token = int64_t{blockIdx.y} * kDenseTokens;
  const int lane = threadIdx.x % (32 * p.warps), lanes = 32 * p.warps;
  const Rows matrix{weight.weight, weight.dtype, weight.clusters, weight.clusters};
  const Rows low_rank{weight.low_rank_out, weight.dtype, weight.rank, weight.rank};
  const auto row_of = [&](int r) { return min(first_row + r, weight.out_features - 1); };

  wait_for_previous_kernel();
  DenseSums sums;
  const Rows by_label{p.product.parts, LOWBIT_F32, p.width, weight.clusters};
  sums.add({matrix.row(row_of(0)), matrix.row(row_of(1)), matrix.row(row_of(2)), matrix.row(row_of(3))},
           by_label, first_token, tokens, lane, lanes);
  if (weight.rank > 0) {
    const Rows low_parts{p.product.parts + weight.clusters, LOWBIT_F32, p.width, weight.rank};
    sums.add(
        {low_rank.row(row_of(0)), low_rank.row(row_of(1)), low_rank.row(row_of(2)), low_rank.row(row_of(3))},
        low_parts, first_token, tokens, lane, lanes);
  }
  sums.finish(tokens, p.warps, partial, [&](int r, int m, float sum) {
    if (first_row + r < weight.out_features) store_sum(p.product.result, first_token + m, first_row + r, sum);
  });
}

int32_t blocks_of(int64_t count, int64_t per_block) {
  return static_cast<int32_t>((count + per_block - 1) / per_block);
}

}  // namespace

void order_labels(const lowbit_codebook_channel& weight, int32_t* order, Stream stream) {
  const int64_t threads = weight.in_features + weight.clusters + 1;
  launch(order_kernel, {dim3(blocks_of(threads, kThreads)), dim3(kThreads)}, stream, weight, order);
}

void product_channel(const ChannelProduct& product, const Plan& plan, Stream stream) {
  const lowbit_codebook_channel& weight = product.weight;
  const lowbit_input& x = product.x;
  const bool by_output = plan.kernel == Kernel::gather;
  Params p{};
  p.product = product;
  p.x = {x.data, x.dtype, x.row_stride, x.cols};
  p.width = static_cast<int32_t>(channel_parts(weight));
  p.dense_rows = static_cast<int32_t>((by_output ? weight.clusters : 0) + weight.rank);
  p.warps = plan.input_warps;
  p.dense_blocks =
      static_cast<int32_t>(plan.blocks) - (by_output ? 0 : blocks_of(weight.clusters, kLabelsOfBlock));

  Shape shape;
  shape.block = dim3(kThreads);
  shape.grid = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.passes));
  launch(parts_kernel, shape, stream, p);
  p.warps = plan.second_warps;
  shape.overlaps_previous = true;
  shape.grid.x = static_cast<unsigned>(plan.second_blocks);
  launch(by_output ? gather_kernel : sums_kernel, shape, stream, p);
}

}  // namespace lowbit::cuda::codebook
