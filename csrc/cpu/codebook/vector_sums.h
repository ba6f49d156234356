// Vector codebooks: the ways to sum, and what they share.
//
// Sums make the products of all codebook vectors with a stretch of x, add them up by code and go on to the
// next stretch; where codes are many, rows are expanded instead.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/balanced_for.h"
#include "core/thread_pool.h"
#include "cpu/codebook/linear.h"

namespace lowbit::codebook {

constexpr int64_t kVectorCodes = 256;

// Products kept at a time: a good part of the second level cache of a core.
constexpr int64_t kStretchBytes = int64_t{1} << 20;
// Products of a block of tokens that a run over some rows touches: whole cache lines, which the second level
// delivers as fast as they are added.
constexpr int64_t kRunBytesBlock = int64_t{1} << 18;
// Rows of a run: their codes stay in the second level cache over all runs of a stretch.
constexpr int64_t kRunRows = 256;

struct VectorShape {
  int64_t rows, size, codebooks, positions;
  int64_t row_floats;  // of a token with room for its padding

  explicit VectorShape(const lowbit_codebook_vector& weight)
      : rows(weight.out_features),
        size(weight.vector_size),
        codebooks(weight.num_codebooks),
        positions((weight.in_features + size - 1) / size),
        row_floats(std::max(positions * size, padded(weight.in_features))) {}

  int64_t codebook_floats() const { return codebooks * size * kVectorCodes; }
  // Positions of a stretch whose products take `position_bytes` each.
  int64_t stretch(int64_t position_bytes) const {
    return std::clamp<int64_t>(kStretchBytes / position_bytes, 1, positions);
  }
};

// The codebooks in fp32, transposed as the kernels want them; both arrays [codebook_floats()].
Codebooks widen_codebooks(const lowbit_codebook_vector& weight, const Call& call, float* vectors,
                          float* transposed);

// Token m, padded with 0, to row[row_floats].
void load_padded(const VectorShape& shape, const Call& call, int64_t m, float* row);

// Blocks of tokens and the threads that sum them: one for each block where there are enough, since threads
// that share a block read each other's products; else all of them for one block after the other.
class Blocks {
 public:
  Blocks(int64_t tokens, int64_t block)
      : tokens_(tokens), block_(block), count_((tokens + block - 1) / block), threads_(get_num_threads()) {}

  // Blocks that are summed at the same time, and the threads of each.
  int64_t workers() const { return count_ >= threads_ ? threads_ : 1; }
  int threads() const { return workers() == 1 ? threads_ : 1; }

  // sum(m, used, worker) for tokens m .. m + used - 1.
  template <class Sum>
  void run(Sum sum) const {
    const auto one = [&](int64_t b, int64_t worker) {
      sum(b * block_, std::min(block_, tokens_ - b * block_), worker);
    };
    if (workers() == 1) {
      for (int64_t b = 0; b < count_; ++b) one(b, 0);
      return;
    }
    balanced_for(count_, threads_, 1, [&](Pieces& pieces, int worker) {
      for (int64_t b, end; pieces.next(&b, &end);) {
        for (; b < end; ++b) one(b, worker);
      }
    });
  }

 private:
  int64_t tokens_, block_, count_;
  int threads_;
};

// Positions whose products, `position_bytes` each, make `run_bytes`.
constexpr int64_t run_positions(int64_t position_bytes, int64_t run_bytes) {
  return std::max<int64_t>(run_bytes / position_bytes, 1);
}

// Rows of a weight.
struct Band {
  int64_t begin, end;

  int64_t rows() const { return end - begin; }
};

// Rows that a block of tokens is summed for at a time. For every thread of a large machine the sums of all
// rows of a large head would be gigabytes; the products are made again for each band, a few percent of the
// sums. A single token takes all rows.
constexpr int64_t kBandRows = 1 << 14;
constexpr int64_t band_rows(int64_t rows, int64_t block) {
  return block == 1 ? rows : std::min(rows, kBandRows);
}

// use(band) for bands of up to `size` of `rows` rows.
template <class Use>
void for_bands(int64_t rows, int64_t size, Use use) {
  for (int64_t begin = 0; begin < rows; begin += size) use(Band{begin, std::min(begin + size, rows)});
}

// A band's columns of y for tokens m .. m + tokens - 1, from value(n, t) of its row n and token m + t.
template <class Value>
void finish_tokens(const lowbit_codebook_vector& weight, const Call& call, const Band& band, int64_t m,
                   int64_t tokens, Value value) {
  constexpr int64_t kRows = 128;
  parallel_for(band.rows(), 0, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin; first < end; first += kRows) {
      const int64_t count = std::min(kRows, end - first);
      for (int64_t t = 0; t < tokens; ++t) {
        float sums[kRows];
        for (int64_t i = 0; i < count; ++i) sums[i] = value(first + i, t);
        finish_rows(call, m + t, sums, weight.out_scales, weight.dtype, band.begin + first,
                    band.begin + first + count);
      }
    }
  });
}

// In fp32, `block` tokens at a time: 1, or the lanes of a vector.
lowbit_status sum_floats(const lowbit_codebook_vector& weight, const Call& call, int64_t block);

// Loops over the values of a vector are compiled for these sizes where rows are expanded.
constexpr bool expands_by_constant(int64_t size) {
  return size <= 16 && (size & (size - 1)) == 0;
}

// In fp32 with rows that are expanded, for many tokens.
lowbit_status multiply_expanded(const lowbit_codebook_vector& weight, const Call& call);

// In fixed point: token by token, or in blocks of tokens, with the same result. For CodebookKernels that have
// them.
lowbit_status sum_digits(const lowbit_codebook_vector& weight, const Call& call);
lowbit_status sum_integers(const lowbit_codebook_vector& weight, const Call& call);

}  // namespace lowbit::codebook
