// Vector codebooks: products of all codebook vectors with a stretch of x, then sums by code, stretch by
// stretch.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/codebook/linear.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kCodes = 256;
constexpr int64_t kFloatBytes = sizeof(float);

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

// Rounding products to fixed point is below the rounding of an fp32 sum when many are added.
constexpr int64_t kFixedPointEntries = 64;
constexpr int64_t kDigitTableBytes = VectorDigitSums::kDigits * kCodes;

struct Shape {
  int64_t rows, size, codebooks, positions;
  int64_t row_floats;  // of a token with room for its padding

  explicit Shape(const lowbit_codebook_vector& weight)
      : rows(weight.out_features),
        size(weight.vector_size),
        codebooks(weight.num_codebooks),
        positions((weight.in_features + size - 1) / size),
        row_floats(std::max(positions * size, padded(weight.in_features))) {}
};

// The codebooks in fp32, transposed as the kernels want them; both arrays [codebooks * size * 256].
Codebooks widen_codebooks(const lowbit_codebook_vector& weight, const Call& call, float* vectors,
                          float* transposed) {
  const Shape shape(weight);
  call.activations.widen(weight.codebooks, weight.dtype, shape.codebooks * kCodes * shape.size, vectors);
  for (int64_t c = 0; c < shape.codebooks; ++c) {
    for (int64_t i = 0; i < kCodes; ++i) {
      for (int64_t d = 0; d < shape.size; ++d) {
        transposed[(c * shape.size + d) * kCodes + i] = vectors[(c * kCodes + i) * shape.size + d];
      }
    }
  }
  return {transposed, weight.num_codebooks, weight.vector_size};
}

// The largest norm of `count` vectors of `size` values. NaN values count as nothing.
double largest_norm(const float* values, int64_t count, int64_t size) {
  double largest = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    double square = 0.0;
    for (int64_t d = 0; d < size; ++d) square += double{values[i * size + d]} * values[i * size + d];
    largest = std::max(largest, square);
  }
  return std::sqrt(largest);
}

// Sums in fp32: one token at a time, or a block of tokens in the lanes of vectors.
lowbit_status sum_floats(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const Shape shape(weight);
  const int64_t tokens = call.x.rows;
  const int64_t lanes = tokens >= kBlockTokens ? kernels.lanes : 1;
  const int64_t stretch = std::clamp<int64_t>(
      kStretchBytes / (shape.codebooks * kCodes * lanes * kFloatBytes), 1, shape.positions);

  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebooks * shape.size * kCodes);
  const size_t codebooks_at = layout.add<float>(shape.codebooks * shape.size * kCodes);
  const size_t row_at = layout.add<float>(shape.row_floats);
  const size_t x_at = layout.add<float>(shape.positions * shape.size * lanes);
  const size_t products_at = layout.add<float>(stretch * shape.codebooks * kCodes * lanes);
  const size_t sums_at = layout.add<float>(shape.rows * lanes);
  const size_t token_sums_at = layout.add<float>(lanes > 1 ? shape.rows : 0);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const row = at<float>(base, row_at);
  float* const x = at<float>(base, x_at);
  float* const products = at<float>(base, products_at);
  float* const sums = at<float>(base, sums_at);
  float* const token_sums = at<float>(base, token_sums_at);
  const Codebooks codebooks =
      widen_codebooks(weight, call, at<float>(base, vectors_at), at<float>(base, codebooks_at));

  for (int64_t m = 0; m < tokens;) {
    const int64_t block = tokens - m >= kBlockTokens ? lanes : 1;
    const int64_t used = std::min(block, tokens - m);
    for (int64_t t = 0; t < block; ++t) {
      std::fill(row, row + shape.row_floats, 0.0f);
      if (t < used) load_token(call, m + t, row);
      for (int64_t k = 0; k < shape.positions * shape.size; ++k) x[k * block + t] = row[k];
    }
    std::fill(sums, sums + shape.rows * block, 0.0f);
    const int64_t product_floats = shape.codebooks * kCodes * block;  // of a position
    const int64_t run_bytes = block == 1 ? kRunBytesToken : kRunBytesBlock;
    const int64_t run = std::max<int64_t>(run_bytes / (product_floats * kFloatBytes), 1);
    for (int64_t first = 0; first < shape.positions; first += stretch) {
      const int64_t count = std::min(stretch, shape.positions - first);
      parallel_for(count, 0, [&](int64_t begin, int64_t end, int) {
        kernels.vector_products(codebooks, x + first * shape.size * block, static_cast<int32_t>(block), begin,
                                end, products);
      });
      parallel_for(shape.rows, 0, [&](int64_t begin, int64_t end, int) {
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
        for (int64_t n = 0; n < shape.rows; ++n) token_sums[n] = sums[n * block + t];
        finished = token_sums;
      }
      finish_rows(call, m + t, finished, weight.out_scales, weight.dtype, 0, shape.rows);
    }
    m += used;
  }
  return LOWBIT_OK;
}

// Sums of products in fixed point, token by token.
lowbit_status sum_digits(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const Shape shape(weight);
  const int64_t position_bytes = shape.codebooks * kDigitTableBytes;
  const int64_t stretch = std::clamp<int64_t>(kStretchBytes / position_bytes, 1, shape.positions);

  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebooks * shape.size * kCodes);
  const size_t codebooks_at = layout.add<float>(shape.codebooks * shape.size * kCodes);
  const size_t x_at = layout.add<float>(shape.row_floats);
  const size_t tables_at = layout.add<uint8_t>(stretch * position_bytes);
  const size_t digits_at = layout.add<int32_t>(VectorDigitSums::kDigits * shape.rows);
  const size_t sums_at = layout.add<float>(shape.rows);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const vectors = at<float>(base, vectors_at);
  float* const x = at<float>(base, x_at);
  uint8_t* const tables = at<uint8_t>(base, tables_at);
  const VectorDigitSums digits{at<int32_t>(base, digits_at), shape.rows};
  float* const sums = at<float>(base, sums_at);
  const Codebooks codebooks = widen_codebooks(weight, call, vectors, at<float>(base, codebooks_at));
  const double vector_norm = largest_norm(vectors, shape.codebooks * kCodes, shape.size);

  for (int64_t m = 0; m < call.x.rows; ++m) {
    std::fill(x, x + shape.row_floats, 0.0f);
    load_token(call, m, x);
    // No product exceeds the product of the norms; the margin is for its rounding. The floor keeps the
    // inverse finite.
    const double largest = std::max(vector_norm * largest_norm(x, shape.positions, shape.size), 1e-30);
    const auto inverse = static_cast<float>((VectorDigitSums::kHalf - 8) / largest);
    const auto step = std::isnan(x[0]) ? std::numeric_limits<float>::quiet_NaN()
                                       : static_cast<float>(1.0 / double{inverse});

    std::fill(digits.data, digits.data + VectorDigitSums::kDigits * digits.stride, 0);
    for (int64_t first = 0; first < shape.positions; first += stretch) {
      const int64_t count = std::min(stretch, shape.positions - first);
      parallel_for(count, 0, [&](int64_t begin, int64_t end, int) {
        kernels.vector_digit_tables(codebooks, x + first * shape.size, inverse, begin, end, tables);
      });
      parallel_for(shape.rows, 0, [&](int64_t begin, int64_t end, int) {
        kernels.vector_digit_sums(weight, tables, first, count, digits, begin, end);
      });
    }
    const int64_t offset = shape.positions * shape.codebooks * VectorDigitSums::kHalf;
    for (int64_t n = 0; n < shape.rows; ++n) {
      int64_t sum = 0;
      for (int d = VectorDigitSums::kDigits - 1; d >= 0; --d) {
        sum = (sum << VectorDigitSums::kBits) + digits.data[d * digits.stride + n];
      }
      sums[n] = step * static_cast<float>(sum - offset);
    }
    finish_rows(call, m, sums, weight.out_scales, weight.dtype, 0, shape.rows);
  }
  return LOWBIT_OK;
}

}  // namespace

lowbit_status vector_linear(const lowbit_codebook_vector& weight, bool fixed_point, const Call& call) {
  const Shape shape(weight);
  const bool many = shape.positions * shape.codebooks >= kFixedPointEntries;
  if (fixed_point && many && call.kernels.vector_digit_sums != nullptr) return sum_digits(weight, call);
  return sum_floats(weight, call);
}

}  // namespace lowbit::codebook
