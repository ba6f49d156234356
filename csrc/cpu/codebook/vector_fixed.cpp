#include <cmath>
#include <limits>

#include "core/scratch.h"
#include "cpu/codebook/vector_sums.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kDigitTableBytes = VectorDigitSums::kDigits * kVectorCodes;

// Products below kHalf that an int32 holds the sum of.
constexpr int64_t kIntegerEntries = (int64_t{1} << 31) / VectorDigitSums::kHalf - 1;

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

// A token's products are integers times `step`.
struct Steps {
  float inverse, step;

  // x[row_floats]; vector_norm: the largest norm of a codebook vector.
  Steps(const VectorShape& shape, const float* x, double vector_norm) {
    // No product exceeds the product of the norms; the margin is for its rounding. The floor keeps the
    // inverse finite.
    const double largest = std::max(vector_norm * largest_norm(x, shape.positions, shape.size), 1e-30);
    inverse = static_cast<float>((VectorDigitSums::kHalf - 8) / largest);
    step = std::isnan(x[0]) ? std::numeric_limits<float>::quiet_NaN()
                            : static_cast<float>(1.0 / double{inverse});
  }
};

// What threads take of a token or block of tokens: some rows and some positions, so that they share neither
// products nor sums. Integers may be added in any order.
struct Part {
  int64_t index;
  int64_t plane;                // of sums: one for each cut of the positions
  int64_t first_row, last_row;  // of the band
  int64_t first, last;          // positions
};

class Parts {
 public:
  Parts(const VectorShape& shape, const Band& band, int64_t threads)
      : positions_(shape.positions),
        rows_(band.rows()),
        planes_(std::clamp<int64_t>(shape.positions / kLeastPositions, 1, threads)),
        cuts_(std::clamp<int64_t>(threads / planes_, 1, rows_)) {}

  int64_t planes() const { return planes_; }
  int64_t count() const { return planes_ * cuts_; }

  template <class Task>
  void run(Task task) const {
    parallel_for(count(), static_cast<int>(count()), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / cuts_, cut = i % cuts_;
        task(Part{i, plane, rows_ * cut / cuts_, rows_ * (cut + 1) / cuts_, positions_ * plane / planes_,
                  positions_ * (plane + 1) / planes_});
      }
    });
  }

 private:
  static constexpr int64_t kLeastPositions = 64;  // a cache line of a row's codes

  int64_t positions_, rows_;
  int64_t planes_, cuts_;
};

// Runs over some rows and some of `count` positions: use(n, end, j, positions).
template <class Use>
void for_runs(int64_t begin, int64_t end, int64_t count, int64_t run, Use use) {
  for (int64_t n = begin; n < end; n += kRunRows) {
    for (int64_t j = 0; j < count; j += run) use(n, std::min(n + kRunRows, end), j, std::min(run, count - j));
  }
}

}  // namespace

lowbit_status sum_digits(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const VectorShape shape(weight);
  const Band band{0, shape.rows};
  const Parts parts(shape, band, get_num_threads());
  const int64_t position_bytes = shape.codebooks * kDigitTableBytes;
  const int64_t stretch = shape.stretch(position_bytes);
  const int64_t plane = VectorDigitSums::kDigits * band.rows();

  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebook_floats());
  const size_t codebooks_at = layout.add<float>(shape.codebook_floats());
  const size_t x_at = layout.add<float>(shape.row_floats);
  const size_t tables_at = layout.add<uint8_t>(parts.count() * stretch * position_bytes);
  const size_t digits_at = layout.add<int32_t>(parts.planes() * plane);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const vectors = at<float>(base, vectors_at);
  float* const x = at<float>(base, x_at);
  int32_t* const digits = at<int32_t>(base, digits_at);
  const Codebooks codebooks = widen_codebooks(weight, call, vectors, at<float>(base, codebooks_at));
  const double vector_norm = largest_norm(vectors, shape.codebooks * kVectorCodes, shape.size);

  for (int64_t m = 0; m < call.x.rows; ++m) {
    load_padded(shape, call, m, x);
    const Steps steps(shape, x, vector_norm);
    parts.run([&](const Part& part) {
      uint8_t* const tables = at<uint8_t>(base, tables_at) + part.index * stretch * position_bytes;
      const VectorDigitSums sums{digits + part.plane * plane, band.rows()};
      for (int d = 0; d < VectorDigitSums::kDigits; ++d) {
        std::fill(sums.data + d * sums.stride + part.first_row, sums.data + d * sums.stride + part.last_row,
                  0);
      }
      for (int64_t first = part.first; first < part.last; first += stretch) {
        const int64_t count = std::min(stretch, part.last - first);
        kernels.vector_digit_tables(codebooks, x + first * shape.size, steps.inverse, 0, count, tables);
        kernels.vector_digit_sums(weight, tables, first, count, sums, part.first_row, part.last_row);
      }
    });
    const int64_t offset = shape.positions * shape.codebooks * VectorDigitSums::kHalf;
    finish_tokens(weight, call, band, m, 1, [&](int64_t n, int64_t) {
      int64_t sum = -offset;
      for (int64_t p = 0; p < parts.planes(); ++p) {
        for (int d = 0; d < VectorDigitSums::kDigits; ++d) {
          sum += int64_t{digits[p * plane + d * band.rows() + n]} << (d * VectorDigitSums::kBits);
        }
      }
      return steps.step * static_cast<float>(sum);
    });
  }
  return LOWBIT_OK;
}

lowbit_status sum_integers(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const VectorShape shape(weight);
  const int64_t lanes = kernels.lanes;
  const Blocks blocks(call.x.rows, lanes);
  const int64_t most_rows = band_rows(shape.rows, lanes), row_integers = most_rows * lanes;
  const Parts most_parts(shape, Band{0, most_rows}, blocks.threads());
  const int64_t position_integers = shape.codebooks * kVectorCodes * lanes;
  const int64_t stretch = shape.stretch(position_integers * sizeof(int32_t));
  const int64_t run = run_positions(position_integers * sizeof(int32_t), kRunBytesBlock);

  const int64_t workers = blocks.workers();
  const int64_t x_floats = shape.positions * shape.size * lanes;
  const int64_t products_integers = most_parts.count() * stretch * position_integers;
  const int64_t sums_integers = most_parts.planes() * row_integers;
  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebook_floats());
  const size_t codebooks_at = layout.add<float>(shape.codebook_floats());
  const size_t row_at = layout.add<float>(workers * shape.row_floats);
  const size_t x_at = layout.add<float>(workers * x_floats);
  const size_t steps_at = layout.add<float>(workers * 2 * lanes);
  const size_t products_at = layout.add<int32_t>(workers * products_integers);
  const size_t sums_at = layout.add<int32_t>(workers * sums_integers);
  const size_t totals_at = layout.add<int64_t>(workers * sums_integers);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const vectors = at<float>(base, vectors_at);
  const Codebooks codebooks = widen_codebooks(weight, call, vectors, at<float>(base, codebooks_at));
  const double vector_norm = largest_norm(vectors, shape.codebooks * kVectorCodes, shape.size);

  blocks.run([&](int64_t m, int64_t used, int64_t worker) {
    float* const row = at<float>(base, row_at) + worker * shape.row_floats;
    float* const x = at<float>(base, x_at) + worker * x_floats;
    float* const inverses = at<float>(base, steps_at) + worker * 2 * lanes;
    float* const steps = inverses + lanes;
    int64_t* const totals = at<int64_t>(base, totals_at) + worker * sums_integers;
    // Unused lanes repeat the last token.
    for (int64_t t = 0; t < lanes; ++t) {
      if (t < used) {
        load_padded(shape, call, m + t, row);
        const Steps token(shape, row, vector_norm);
        inverses[t] = token.inverse;
        steps[t] = token.step;
      } else {
        inverses[t] = inverses[t - 1];
      }
      for (int64_t k = 0; k < shape.positions * shape.size; ++k) x[k * lanes + t] = row[k];
    }
    for_bands(shape.rows, most_rows, [&](const Band& band) {
      const Parts parts(shape, band, blocks.threads());
      parts.run([&](const Part& part) {
        int32_t* const products = at<int32_t>(base, products_at) + worker * products_integers +
                                  part.index * stretch * position_integers;
        int32_t* const sums = at<int32_t>(base, sums_at) + worker * sums_integers + part.plane * row_integers;
        int64_t* const total = totals + part.plane * row_integers;
        const int64_t begin = part.first_row * lanes, end = part.last_row * lanes;
        std::fill(sums + begin, sums + end, 0);
        std::fill(total + begin, total + end, int64_t{0});
        int64_t entries = 0;  // in sums
        for (int64_t first = part.first, count = 0; first < part.last; first += count) {
          count = std::min(stretch, part.last - first);
          kernels.vector_integer_products(codebooks, x + first * shape.size * lanes, inverses, 0, count,
                                          products);
          for_runs(part.first_row, part.last_row, count, run,
                   [&](int64_t n, int64_t last, int64_t j, int64_t positions) {
                     kernels.vector_integer_sums(weight, products + j * position_integers, first + j,
                                                 positions, sums + n * lanes, band.begin + n,
                                                 band.begin + last);
                   });
          entries += count * shape.codebooks;
          if (entries + stretch * shape.codebooks <= kIntegerEntries && first + count < part.last) continue;
          for (int64_t i = begin; i < end; ++i) {
            total[i] += sums[i];
            sums[i] = 0;
          }
          entries = 0;
        }
      });
      finish_tokens(weight, call, band, m, used, [&](int64_t n, int64_t t) {
        int64_t total = 0;
        for (int64_t p = 0; p < parts.planes(); ++p) total += totals[p * row_integers + n * lanes + t];
        return steps[t] * static_cast<float>(total);
      });
    });
  });
  return LOWBIT_OK;
}

}  // namespace lowbit::codebook
