#include "core/scratch.h"
#include "cpu/codebook/expanded.h"
#include "cpu/codebook/vector_sums.h"

namespace lowbit::codebook {
namespace {

// Products of one token that a run touches: they fit the first level cache beside the codes.
constexpr int64_t kRunBytesToken = int64_t{1} << 15;

// Codes whose products are added in fp32, always the same ones; a sum of all of a long row would be off by
// more than the products' rounding.
constexpr int64_t kSegmentCodes = 128;

constexpr int kMaxVectorSize = 64;  // of the C interface

// Row n in fp32 without its scale, from `vectors` [codebooks][256][size]; kSize 0: any size.
template <int kSize>
void expand_row(const lowbit_codebook_vector& weight, const float* vectors, int64_t n, float* expanded) {
  const VectorShape shape(weight);
  const int64_t size = kSize > 0 ? kSize : shape.size, plane = shape.rows * shape.positions;
  const uint8_t* const codes = weight.codes + n * shape.positions;
  const auto position = [&](int64_t j, float* out) {
    float sum[kSize > 0 ? kSize : kMaxVectorSize] = {};
    for (int64_t c = 0; c < shape.codebooks; ++c) {
      const float* const vector = vectors + (c * kVectorCodes + codes[c * plane + j]) * size;
      for (int64_t d = 0; d < size; ++d) sum[d] += vector[d];
    }
    return std::copy_n(sum, size, out);
  };
  const int64_t whole = weight.in_features / size;
  for (int64_t j = 0; j < whole; ++j) expanded = position(j, expanded);
  if (whole < shape.positions) {
    float last[kMaxVectorSize];
    position(whole, last);
    std::copy_n(last, weight.in_features - whole * size, expanded);
  }
}

}  // namespace

lowbit_status sum_floats(const lowbit_codebook_vector& weight, const Call& call, int64_t block) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const VectorShape shape(weight);
  const Blocks blocks(call.x.rows, block);
  const auto lanes = static_cast<int32_t>(block);
  const int64_t position_floats = shape.codebooks * kVectorCodes * block;  // of products
  const int64_t stretch = shape.stretch(position_floats * sizeof(float));
  const int64_t run =
      run_positions(position_floats * sizeof(float), block == 1 ? kRunBytesToken : kRunBytesBlock);

  const int64_t segment = std::max<int64_t>(kSegmentCodes / shape.codebooks, 1);
  const int64_t workers = blocks.workers(), most_rows = band_rows(shape.rows, block);
  const int64_t x_floats = shape.positions * shape.size * block;
  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebook_floats());
  const size_t codebooks_at = layout.add<float>(shape.codebook_floats());
  const size_t row_at = layout.add<float>(workers * shape.row_floats);
  const size_t x_at = layout.add<float>(workers * x_floats);
  const size_t products_at = layout.add<float>(workers * stretch * position_floats);
  const size_t sums_at = layout.add<float>(workers * most_rows * block);
  const size_t totals_at = layout.add<double>(workers * most_rows * block);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  const Codebooks codebooks =
      widen_codebooks(weight, call, at<float>(base, vectors_at), at<float>(base, codebooks_at));

  blocks.run([&](int64_t m, int64_t used, int64_t worker) {
    float* const row = at<float>(base, row_at) + worker * shape.row_floats;
    float* const x = at<float>(base, x_at) + worker * x_floats;
    float* const products = at<float>(base, products_at) + worker * stretch * position_floats;
    float* const sums = at<float>(base, sums_at) + worker * most_rows * block;
    double* const totals = at<double>(base, totals_at) + worker * most_rows * block;
    // Unused lanes repeat the last token.
    for (int64_t t = 0; t < block; ++t) {
      if (t < used) load_padded(shape, call, m + t, row);
      for (int64_t k = 0; k < shape.positions * shape.size; ++k) x[k * block + t] = row[k];
    }
    for_bands(shape.rows, most_rows, [&](const Band& band) {
      std::fill(sums, sums + band.rows() * block, 0.0f);
      std::fill(totals, totals + band.rows() * block, 0.0);
      const auto add_up = [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * block; i < end * block; ++i) {
          totals[i] += double{sums[i]};
          sums[i] = 0.0f;
        }
      };
      for (int64_t first = 0; first < shape.positions; first += stretch) {
        const int64_t last = std::min(first + stretch, shape.positions);
        parallel_for(last - first, 0, [&](int64_t begin, int64_t end, int) {
          kernels.vector_products(codebooks, x + first * shape.size * block, lanes, begin, end, products);
        });
        parallel_for(band.rows(), 0, [&](int64_t begin, int64_t end, int) {
          for (int64_t n = begin; n < end; n += kRunRows) {
            const int64_t rows_end = std::min(n + kRunRows, end);
            for (int64_t j = first, next; j < last; j = next) {
              const int64_t segment_end = std::min((j / segment + 1) * segment, shape.positions);
              next = std::min({j + run, segment_end, last});
              kernels.vector_sums(weight, products + (j - first) * position_floats, lanes, j, next - j,
                                  sums + n * block, band.begin + n, band.begin + rows_end);
              if (next == segment_end) add_up(n, rows_end);
            }
          }
        });
      }
      finish_tokens(weight, call, band, m, used,
                    [&](int64_t n, int64_t t) { return static_cast<float>(totals[n * block + t]); });
    });
  });
  return LOWBIT_OK;
}

lowbit_status multiply_expanded(const lowbit_codebook_vector& weight, const Call& call) {
  thread_local Scratch scratch;
  const VectorShape shape(weight);
  ScratchLayout layout;
  const size_t vectors_at = layout.add<float>(shape.codebook_floats());
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const vectors = at<float>(base, vectors_at);
  call.activations.widen(weight.codebooks, weight.dtype, shape.codebook_floats(), vectors);

  const auto expand = [&](int64_t row, int64_t count, float* expanded, int64_t stride) {
    for (int64_t n = row; n < row + count; ++n, expanded += stride) {
      switch (shape.size) {
        case 1:
          expand_row<1>(weight, vectors, n, expanded);
          break;
        case 2:
          expand_row<2>(weight, vectors, n, expanded);
          break;
        case 4:
          expand_row<4>(weight, vectors, n, expanded);
          break;
        case 8:
          expand_row<8>(weight, vectors, n, expanded);
          break;
        case 16:
          expand_row<16>(weight, vectors, n, expanded);
          break;
        default:
          expand_row<0>(weight, vectors, n, expanded);
      }
    }
  };
  const auto load = [&](int64_t m, int, float* values) { load_token(call, m, values); };
  return expanded_linear(call, load, expand, weight.out_scales, weight.dtype);
}

}  // namespace lowbit::codebook
