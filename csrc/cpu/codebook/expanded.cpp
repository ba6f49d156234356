#include "cpu/codebook/expanded.h"

#include <algorithm>

#include "core/balanced_for.h"
#include "core/scratch.h"

namespace lowbit::codebook {

lowbit_status expanded_linear(const Call& call, ExpandRows expand, const void* scales,
                              lowbit_dtype scales_dtype) {
  thread_local Scratch scratch;
  const int64_t inputs = call.x.cols, outputs = call.y.cols;
  // Most rows are a multiple of 4 KB long; tokens as far apart would meet in one set of the first level
  // cache.
  const int64_t stride = padded(inputs) + 32;
  const int64_t block = std::min(kExpandedBlock, call.x.rows);
  const int64_t tiles = (outputs + kExpandedRows - 1) / kExpandedRows;
  const int threads = static_cast<int>(std::min<int64_t>(get_num_threads(), Pieces::kMaxThreads));

  ScratchLayout layout;
  const size_t x_at = layout.add<float>(block * stride);
  const size_t weight_at = layout.add<float>(threads * kExpandedRows * inputs);
  const size_t sums_at = layout.add<float>(threads * block * kExpandedRows);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const x = at<float>(base, x_at);

  for (int64_t m = 0; m < call.x.rows; m += block) {
    const int64_t tokens = std::min(block, call.x.rows - m);
    parallel_for(tokens, 0, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) load_token(call, m + t, x + t * stride);
    });
    balanced_for(tiles, threads, 1, [&](Pieces& pieces, int thread) {
      float* const weight = at<float>(base, weight_at) + thread * kExpandedRows * inputs;
      const Sums sums{at<float>(base, sums_at) + thread * block * kExpandedRows, kExpandedRows};
      for (int64_t tile, last; pieces.next(&tile, &last);) {
        for (; tile < last; ++tile) {
          const int64_t row = tile * kExpandedRows, count = std::min(kExpandedRows, outputs - row);
          expand(row, count, weight);
          call.kernels.dense({weight, LOWBIT_F32, inputs}, {x, tokens, stride}, sums, 0, count);
          for (int64_t t = 0; t < tokens; ++t) {
            finish_rows(call, m + t, sums.data + t * kExpandedRows, scales, scales_dtype, row, row + count);
          }
        }
      }
    });
  }
  return LOWBIT_OK;
}

}  // namespace lowbit::codebook
