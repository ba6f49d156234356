#include "cpu/codebook/expanded.h"

#include <algorithm>

#include "core/balanced_for.h"
#include "core/scratch.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kLine = 16;  // values of a cache line

// Inputs whose products are added up in fp32; rounding in sums of more would leave the bound of `exact`.
constexpr int64_t kSegment = 1 << 14;

// Tokens [first, first + count) as a panel [inputs][width], padded with tokens of 0, by way of `rows`
// [width][stride].
void load_panel(LoadToken load, int thread, int64_t inputs, int64_t first, int64_t count, int64_t width,
                float* rows, int64_t stride, float* panel) {
  for (int64_t t = 0; t < count; ++t) load(first + t, thread, rows + t * stride);
  std::fill(rows + count * stride, rows + width * stride, 0.0f);
  // By cache lines of rows: those of the panel that they land in stay in the first level cache.
  for (int64_t k = 0; k < inputs; k += kLine) {
    const int64_t last = std::min(k + kLine, inputs);
    for (int64_t t = 0; t < width; ++t) {
      for (int64_t i = k; i < last; ++i) panel[i * width + t] = rows[t * stride + i];
    }
  }
}

}  // namespace

lowbit_status expanded_linear(const Call& call, LoadToken load, ExpandRows expand, const void* scales,
                              lowbit_dtype scales_dtype) {
  thread_local Scratch scratch;
  const int64_t inputs = call.x.cols, outputs = call.y.cols, width = call.kernels.panel_tokens;
  const int64_t block = std::min(kExpandedBlock, (call.x.rows + width - 1) / width * width);
  const int64_t tiles = (outputs + kExpandedRows - 1) / kExpandedRows;
  const int threads = static_cast<int>(std::min<int64_t>(get_num_threads(), Pieces::kMaxThreads));
  const int loaders = static_cast<int>(std::min<int64_t>(threads, block / width));
  // Most rows are a multiple of 4 KB long; as far apart they would meet in one set of the first level cache.
  const int64_t stride = padded(inputs) + kLine;

  ScratchLayout layout;
  const size_t rows_at = layout.add<float>(loaders * width * stride);
  const size_t x_at = layout.add<float>(block * inputs);
  const size_t weight_at = layout.add<float>(threads * kExpandedRows * stride);
  const size_t sums_at = layout.add<float>(threads * kExpandedRows * width);
  const size_t totals_at = layout.add<double>(threads * kExpandedRows * width);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const x = at<float>(base, x_at);

  for (int64_t m = 0; m < call.x.rows; m += block) {
    const int64_t tokens = std::min(block, call.x.rows - m);
    const int64_t panels = (tokens + width - 1) / width;
    parallel_for(panels, loaders, [&](int64_t begin, int64_t end, int thread) {
      float* const rows = at<float>(base, rows_at) + thread * width * stride;
      for (int64_t p = begin; p < end; ++p) {
        load_panel(load, thread, inputs, m + p * width, std::min(width, tokens - p * width), width, rows,
                   stride, x + p * width * inputs);
      }
    });
    balanced_for(tiles, threads, 1, [&](Pieces& pieces, int thread) {
      float* const weight = at<float>(base, weight_at) + thread * kExpandedRows * stride;
      float* const sums = at<float>(base, sums_at) + thread * kExpandedRows * width;
      double* const totals = at<double>(base, totals_at) + thread * kExpandedRows * width;
      for (int64_t tile, last; pieces.next(&tile, &last);) {
        for (; tile < last; ++tile) {
          const int64_t row = tile * kExpandedRows, count = std::min(kExpandedRows, outputs - row);
          expand(row, count, weight, stride);
          for (int64_t p = 0; p < panels; ++p) {
            const int64_t used = std::min(width, tokens - p * width);
            const float* const panel = x + p * width * inputs;
            std::fill(totals, totals + count * width, 0.0);
            for (int64_t k = 0; k < inputs; k += kSegment) {
              const int64_t cols = std::min(kSegment, inputs - k);
              call.kernels.multiply_panel({weight + k, count, cols, stride}, panel + k * width, used, sums);
              for (int64_t i = 0; i < count * width; ++i) totals[i] += double{sums[i]};
            }
            for (int64_t t = 0; t < used; ++t) {
              float token[kExpandedRows];
              for (int64_t r = 0; r < count; ++r) token[r] = static_cast<float>(totals[r * width + t]);
              finish_rows(call, m + p * width + t, token, scales, scales_dtype, row, row + count);
            }
          }
        }
      }
    });
  }
  return LOWBIT_OK;
}

}  // namespace lowbit::codebook
