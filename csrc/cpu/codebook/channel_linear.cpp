// Channel codebooks: the dense products are with the centroids, never with the expanded weight.
#include <algorithm>

#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/codebook/panels.h"

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

// The same of a panel: x [inputs][width], sums [clusters][width].
void sum_panel_by_label(const lowbit_codebook_channel& weight, const float* x, int64_t width, float* sums) {
  std::fill(sums, sums + weight.clusters * width, 0.0f);
  with_labels(weight, [&](const auto* labels) {
    for (int64_t k = 0; k < weight.in_features; ++k) {
      float* const sum = sums + labels[k] * width;
      for (int64_t t = 0; t < width; ++t) sum[t] += x[k * width + t];
    }
  });
}

lowbit_status multiply_few(const lowbit_codebook_channel& weight, const Call& call) {
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

// The same by panels. Of a panel in between, with `low` rows:
//
//   axis 0   [clusters]  products with the centroids      axis 1   [clusters]  x summed by label
//            [rank]      low_rank_in x                             [rank]      low_rank_in x
//
// Axis 0 adds the row of the label to the product with low_rank_out; axis 1 multiplies the whole of it.
lowbit_status multiply_many(const lowbit_codebook_channel& weight, const Call& call) {
  thread_local Scratch scratch;
  const bool by_output = weight.axis == 0;
  const int64_t inputs = weight.in_features, rank = weight.rank, clusters = weight.clusters;
  const int64_t low = clusters + rank;
  ScratchLayout layout;
  const PanelMemory memory(call, std::max(inputs, low), &layout);
  const size_t x_at = layout.add<float>(memory.panels(memory.block()) * memory.panel_floats(inputs));
  const size_t low_at = layout.add<float>(memory.block() * low);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const x = at<float>(base, x_at);
  float* const low_x = at<float>(base, low_at);
  const int64_t width = memory.width();

  const auto load = [&](int64_t m, int, float* values) { load_token(call, m, values); };
  const auto widen = [&](const void* matrix, int64_t row, int64_t cols, float* values) {
    const auto* const data = static_cast<const char*>(matrix) + row * cols * dtype_size(weight.dtype);
    call.activations.widen(data, weight.dtype, cols, values);
  };
  // Rows that meet x itself: the centroids (axis 0), then low_rank_in.
  const int64_t centroids = by_output ? clusters : 0;
  const auto first_rows = [&](int64_t row, int64_t count, float* rows, int64_t stride) {
    for (int64_t r = row; r < row + count; ++r, rows += stride) {
      r < centroids ? widen(weight.weight, r, inputs, rows)
                    : widen(weight.low_rank_in, r - centroids, inputs, rows);
    }
  };
  const auto second_rows = [&](int64_t row, int64_t count, float* rows, int64_t stride) {
    for (int64_t r = row; r < row + count; ++r, rows += stride) {
      if (!by_output) widen(weight.weight, r, clusters, rows);
      if (rank > 0) widen(weight.low_rank_out, r, rank, rows + (by_output ? 0 : clusters));
    }
  };

  for (int64_t m = 0; m < call.x.rows; m += memory.block()) {
    const int64_t tokens = std::min(memory.block(), call.x.rows - m);
    const Panels panels = memory.load(base, load, inputs, m, tokens, x);
    if (!by_output) {
      parallel_for(memory.panels(tokens), 0, [&](int64_t begin, int64_t end, int) {
        for (int64_t p = begin; p < end; ++p) {
          sum_panel_by_label(weight, panels.data + p * panels.stride, width, low_x + p * low * width);
        }
      });
    }
    const auto keep = [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
      std::copy_n(sums, count * width, low_x + (panel * low + clusters - centroids + row) * width);
    };
    if (centroids + rank > 0) {
      memory.multiply(base, panels, centroids + rank, first_rows, keep);
    }
    const auto finish = [&](int64_t row, int64_t count, int64_t panel, float* sums) {
      if (by_output) {
        with_labels(weight, [&](const auto* labels) {
          for (int64_t r = 0; r < count; ++r) {
            const float* const product = low_x + (panel * low + labels[row + r]) * width;
            for (int64_t t = 0; t < width; ++t) sums[r * width + t] += product[t];
          }
        });
      }
      const int64_t first = panel * width;
      finish_panel(call, m + first, tokens - first, sums, width, nullptr, LOWBIT_F32, row, count);
    };
    const Panels second{low_x + centroids * width, low - centroids, low * width, tokens};
    memory.multiply(base, second, weight.out_features, second_rows, finish);
  }
  return LOWBIT_OK;
}

}  // namespace

lowbit_status channel_linear(const lowbit_codebook_channel& weight, const Call& call) {
  if (call.x.rows >= kPanelTokens && call.kernels.lanes > 1) return multiply_many(weight, call);
  return for_tokens(call, kMaxTokens, [&](const Call& some) { return multiply_few(weight, some); });
}

}  // namespace lowbit::codebook
