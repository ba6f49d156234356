// Vector codebooks: products of all codebook vectors with a stretch of x, then sums by code, stretch by
// stretch.
#include <algorithm>

#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/codebook/linear.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kCodes = 256;

// Products kept at a time: a good part of the second level cache of a core, where all threads read them.
constexpr int64_t kStretchBytes = int64_t{1} << 20;
// Products that a run over some rows touches: of one token they fit the first level cache beside the codes; a
// block of tokens uses whole cache lines, which the second level delivers as fast as they are added.
constexpr int64_t kRunBytesToken = int64_t{1} << 15;
constexpr int64_t kRunBytesBlock = int64_t{1} << 18;
// Rows of a run: their codes stay in the second level cache over all runs of a stretch.
constexpr int64_t kRunRows = 256;

// From this many tokens on a block with unused lanes is cheaper than one token at a time.
constexpr int64_t kBlockTokens = 4;

}  // namespace

lowbit_status vector_linear(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const int64_t tokens = call.x.rows, rows = weight.out_features;
  const int64_t size = weight.vector_size, codebooks = weight.num_codebooks;
  const int64_t positions = (weight.in_features + size - 1) / size;
  const int64_t lanes = tokens >= kBlockTokens ? kernels.lanes : 1;
  const int64_t row_floats = std::max(positions * size, padded(weight.in_features));
  const int64_t position_bytes = codebooks * kCodes * lanes * static_cast<int64_t>(sizeof(float));
  const int64_t stretch = std::clamp<int64_t>(kStretchBytes / position_bytes, 1, positions);

  ScratchLayout layout;
  const size_t codebooks_at = layout.add<float>(codebooks * size * kCodes);
  const size_t vectors_at = layout.add<float>(codebooks * size * kCodes);
  const size_t row_at = layout.add<float>(row_floats);
  const size_t x_at = layout.add<float>(positions * size * lanes);
  const size_t products_at = layout.add<float>(stretch * codebooks * kCodes * lanes);
  const size_t sums_at = layout.add<float>(rows * lanes);
  const size_t token_sums_at = layout.add<float>(lanes > 1 ? rows : 0);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const transposed = at<float>(base, codebooks_at);
  float* const row = at<float>(base, row_at);
  float* const x = at<float>(base, x_at);
  float* const products = at<float>(base, products_at);
  float* const sums = at<float>(base, sums_at);
  float* const token_sums = at<float>(base, token_sums_at);

  float* const vectors = at<float>(base, vectors_at);
  call.activations.widen(weight.codebooks, weight.dtype, codebooks * kCodes * size, vectors);
  for (int64_t c = 0; c < codebooks; ++c) {
    for (int64_t d = 0; d < size; ++d) {
      for (int64_t i = 0; i < kCodes; ++i) {
        transposed[(c * size + d) * kCodes + i] = vectors[(c * kCodes + i) * size + d];
      }
    }
  }
  const Codebooks books{transposed, weight.num_codebooks, weight.vector_size};

  for (int64_t m = 0; m < tokens;) {
    const int64_t block = tokens - m >= kBlockTokens ? lanes : 1;
    const int64_t used = std::min(block, tokens - m);
    for (int64_t t = 0; t < block; ++t) {
      std::fill(row, row + row_floats, 0.0f);
      if (t < used) load_token(call, m + t, row);
      for (int64_t k = 0; k < positions * size; ++k) x[k * block + t] = row[k];
    }
    std::fill(sums, sums + rows * block, 0.0f);
    for (int64_t first = 0; first < positions; first += stretch) {
      const int64_t count = std::min(stretch, positions - first);
      parallel_for(count, 0, [&](int64_t begin, int64_t end, int) {
        kernels.vector_products(books, x + first * size * block, static_cast<int32_t>(block), begin, end,
                                products);
      });
      const int64_t product_floats = codebooks * kCodes * block;
      const int64_t run_bytes = block == 1 ? kRunBytesToken : kRunBytesBlock;
      const int64_t run =
          std::max<int64_t>(run_bytes / (product_floats * static_cast<int64_t>(sizeof(float))), 1);
      parallel_for(rows, 0, [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; n += kRunRows) {
          for (int64_t j = 0; j < count; j += run) {
            kernels.vector_sums(weight, products + j * product_floats, static_cast<int32_t>(block), first + j,
                                std::min(run, count - j), sums, n, std::min(n + kRunRows, end));
          }
        }
      });
    }
    for (int64_t t = 0; t < used; ++t) {
      const float* finished = sums;
      if (block > 1) {
        for (int64_t n = 0; n < rows; ++n) token_sums[n] = sums[n * block + t];
        finished = token_sums;
      }
      finish_rows(call, m + t, finished, weight.out_scales, weight.dtype, 0, rows);
    }
    m += used;
  }
  return LOWBIT_OK;
}

}  // namespace lowbit::codebook
