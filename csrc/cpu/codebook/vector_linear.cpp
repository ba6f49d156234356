#include "cpu/codebook/expanded.h"
#include "cpu/codebook/vector_sums.h"

namespace lowbit::codebook {
namespace {

// Rounding products to fixed point is below the rounding of an fp32 sum when many are added.
constexpr int64_t kFixedPointEntries = 64;

// From this many tokens on a block with unused lanes is cheaper than one token at a time.
constexpr int64_t kBlockTokensFloats = 4, kBlockTokensFixed = 9;

// Digits of 7 bits that an int32 holds the sum of.
constexpr int64_t kDigitEntries = INT32_MAX / ((1 << VectorDigitSums::kBits) - 1);

// Whether multiplying with expanded rows takes less than products of all vectors and sums by code. In
// multiply-adds of a vector on AVX-512 (fitted, see benchmarks/NOTES.md): an expanded weight takes 1.15, or
// 0.4 in pieces, a product 1.2 and an addition of a sum 3.5; expanding a code takes 3, and 2 more a value
// where its loop does not know the size. The answer is the same for every number of tokens from kPanelTokens
// on, and so are a row's bits.
bool expands(const VectorShape& shape, const Call& call) {
  const int64_t lanes = call.kernels.lanes;
  if (call.x.rows < kPanelTokens || lanes == 1) return false;
  const int64_t expand_code = 3 + (expands_by_constant(shape.size) ? 0 : 2 * shape.size);
  const int64_t codes = shape.positions * shape.codebooks;
  const double expanding =
      static_cast<double>(lanes * expand_code * codes * shape.rows) / static_cast<double>(kPanelBlock);
  return (call.pieces != nullptr ? 0.4 : 1.15) *
                 static_cast<double>(shape.rows * shape.positions * shape.size) +
             expanding <
         static_cast<double>(codes) *
             (3.5 * static_cast<double>(shape.rows) + 1.2 * static_cast<double>(kVectorCodes * shape.size));
}

}  // namespace

Codebooks widen_codebooks(const lowbit_codebook_vector& weight, const Call& call, float* vectors,
                          float* transposed) {
  const VectorShape shape(weight);
  call.activations.widen(weight.codebooks, weight.dtype, shape.codebook_floats(), vectors);
  for (int64_t c = 0; c < shape.codebooks; ++c) {
    for (int64_t i = 0; i < kVectorCodes; ++i) {
      for (int64_t d = 0; d < shape.size; ++d) {
        transposed[(c * shape.size + d) * kVectorCodes + i] =
            vectors[(c * kVectorCodes + i) * shape.size + d];
      }
    }
  }
  return {transposed, weight.num_codebooks, weight.vector_size};
}

void load_padded(const VectorShape& shape, const Call& call, int64_t m, float* row) {
  std::fill(row, row + shape.row_floats, 0.0f);
  load_token(call, m, row);
}

lowbit_status vector_linear(const lowbit_codebook_vector& weight, bool fixed_point, const Call& call) {
  const VectorShape shape(weight);
  const int64_t tokens = call.x.rows, lanes = call.kernels.lanes, entries = shape.positions * shape.codebooks;
  if (expands(shape, call)) return multiply_expanded(weight, call);
  const bool integers = fixed_point && call.kernels.vector_digit_sums != nullptr;
  const bool fixed = integers && entries >= kFixedPointEntries && entries <= kDigitEntries;
  const int64_t block_tokens = fixed ? kBlockTokensFixed : kBlockTokensFloats;
  const int64_t in_blocks = tokens % lanes >= block_tokens ? tokens : tokens / lanes * lanes;
  if (in_blocks > 0) {
    const Call blocks = call.tokens(0, in_blocks);
    const lowbit_status bad = fixed ? sum_integers(weight, blocks) : sum_floats(weight, blocks, lanes);
    if (bad) return bad;
  }
  if (in_blocks == tokens) return LOWBIT_OK;
  const Call rest = call.tokens(in_blocks, tokens - in_blocks);
  return fixed ? sum_digits(weight, rest) : sum_floats(weight, rest, 1);
}

}  // namespace lowbit::codebook
