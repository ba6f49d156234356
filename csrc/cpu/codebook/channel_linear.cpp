// Channel codebooks: the dense products are with the centroids, never with the expanded weight.
#include <algorithm>

#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/codebook/linear.h"

namespace lowbit::codebook {
namespace {

// Calls use(labels) with the labels as a pointer to their own type.
template <class Use>
void with_labels(const lowbit_codebook_channel& weight, Use use) {
  switch (weight.label_bytes) {
    case 1:
      return use(static_cast<const uint8_t*>(weight.labels));
    case 2:
      return use(static_cast<const uint16_t*>(weight.labels));
    default:
      return use(static_cast<const uint32_t*>(weight.labels));
  }
}

// sums[c] = sum of the x[k] with labels[k] == c, ascending k; sums [padded(clusters)].
void sum_by_label(const lowbit_codebook_channel& weight, const float* x, float* sums) {
  std::fill(sums, sums + padded(weight.clusters), 0.0f);
  with_labels(weight, [&](const auto* labels) {
    for (int64_t k = 0; k < weight.in_features; ++k) sums[labels[k]] += x[k];
  });
}

lowbit_status multiply(const lowbit_codebook_channel& weight, const Call& call) {
  thread_local Scratch scratch;
  const int64_t tokens = call.x.rows;
  const bool by_output = weight.axis == 0;
  // The matrix that meets x (or x summed by label), and how many columns the low rank factor has then.
  const int64_t rank = weight.rank;
  const int64_t inputs = padded(weight.in_features), low = padded(rank), clusters = padded(weight.clusters);

  ScratchLayout layout;
  const size_t x_at = layout.add<float>(tokens * inputs);
  const size_t low_at = layout.add<float>(tokens * low);
  const size_t clusters_at = layout.add<float>(tokens * clusters);
  const size_t sums_at = layout.add<float>(tokens * weight.out_features);
  const size_t low_sums_at = layout.add<float>(rank > 0 ? tokens * weight.out_features : 0);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const x = at<float>(base, x_at);
  // axis 0: products with the centroids; axis 1: x summed by label.
  float* const by_cluster = at<float>(base, clusters_at);
  float* const low_x = at<float>(base, low_at);  // low_rank_in x
  const Sums sums{at<float>(base, sums_at), weight.out_features};
  const Sums low_sums{at<float>(base, low_sums_at), weight.out_features};

  parallel_for(tokens, 0, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      load_token(call, m, x + m * inputs);
      std::fill(low_x + m * low, low_x + (m + 1) * low, 0.0f);
      if (!by_output) sum_by_label(weight, x + m * inputs, by_cluster + m * clusters);
    }
  });

  // Everything that reads x itself: the centroids (axis 0), then low_rank_in.
  const int64_t centroids = by_output ? weight.clusters : 0;
  const DenseTokens x_tokens{x, tokens, inputs};
  parallel_for(centroids + rank, 0, [&](int64_t begin, int64_t end, int) {
    if (begin < centroids) {
      call.kernels.dense({weight.weight, weight.dtype, weight.in_features}, x_tokens, {by_cluster, clusters},
                         begin, std::min(end, centroids));
    }
    if (end > centroids) {
      call.kernels.dense({weight.low_rank_in, weight.dtype, weight.in_features}, x_tokens, {low_x, low},
                         std::max<int64_t>(begin - centroids, 0), end - centroids);
    }
  });

  parallel_for(weight.out_features, 0, [&](int64_t begin, int64_t end, int) {
    if (!by_output) {
      call.kernels.dense({weight.weight, weight.dtype, weight.clusters}, {by_cluster, tokens, clusters}, sums,
                         begin, end);
    }
    if (rank > 0) {
      call.kernels.dense({weight.low_rank_out, weight.dtype, rank}, {low_x, tokens, low}, low_sums, begin,
                         end);
    }
    for (int64_t m = 0; m < tokens; ++m) {
      float* const row = sums.data + m * sums.stride;
      if (by_output) {
        const float* const products = by_cluster + m * clusters;
        with_labels(weight, [&](const auto* labels) {
          for (int64_t n = begin; n < end; ++n) row[n] = products[labels[n]];
        });
      }
      if (rank > 0) {
        const float* const low_row = low_sums.data + m * low_sums.stride;
        for (int64_t n = begin; n < end; ++n) row[n] += low_row[n];
      }
      finish_rows(call, m, row + begin, nullptr, LOWBIT_F32, begin, end);
    }
  });
  return LOWBIT_OK;
}

}  // namespace

lowbit_status channel_linear(const lowbit_codebook_channel& weight, const Call& call) {
  return for_tokens(call, kMaxTokens, [&](const Call& some) { return multiply(weight, some); });
}

}  // namespace lowbit::codebook
