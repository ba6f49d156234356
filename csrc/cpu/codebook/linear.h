// The three layers of the family on prepared arguments; csrc/cpu/codebook.cpp validates and calls them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/thread_pool.h"
#include "cpu/activations/activations.h"
#include "cpu/codebook/codebook.h"
#include "lowbit.h"

namespace lowbit::codebook {

struct Call {
  const CodebookKernels& kernels;
  const ActivationKernels& activations;
  lowbit_input x;
  const lowbit_vector* bias;  // null: none
  lowbit_output y;
  const PieceKernels* pieces = nullptr;  // null: products are of fp32 values
  int32_t token_pieces = 0;              // of an activation
  int threads = get_num_threads();       // asked once: memory for threads must be for those that run

  // The same for `count` rows of x and y.
  Call tokens(int64_t first, int64_t count) const;
};

// Tokens that are taken together where memory grows with them.
constexpr int64_t kMaxTokens = 64;

// linear(some of call's tokens) for every `most` of them.
template <class Linear>
lowbit_status for_tokens(const Call& call, int64_t most, Linear linear) {
  for (int64_t m = 0; m < call.x.rows; m += most) {
    const lowbit_status bad = linear(call.tokens(m, std::min(most, call.x.rows - m)));
    if (bad) return bad;
  }
  return LOWBIT_OK;
}

// Each fails only when memory is short.
lowbit_status channel_linear(const lowbit_codebook_channel& weight, const Call& call);
lowbit_status scalar_linear(const lowbit_codebook_scalar& weight, bool quantize_activations,
                            const Call& call);
lowbit_status vector_linear(const lowbit_codebook_vector& weight, bool fixed_point, const Call& call);

// Length of a row in memory that the vector loops may read to the end of.
constexpr int64_t padded(int64_t n) {
  return (n + LOWBIT_BLOCK_INPUTS - 1) / LOWBIT_BLOCK_INPUTS * LOWBIT_BLOCK_INPUTS;
}

// Row m of x in fp32 [padded(K)], padding 0. A row with a non-finite value becomes NaN throughout, padding
// included, and so does everything computed from it.
void load_token(const Call& call, int64_t m, float* values);

// Rows [begin, end) of y for token m: sums[i] * scales[begin + i] + bias[begin + i]; null scales are left
// out.
void finish_rows(const Call& call, int64_t m, const float* sums, const void* scales,
                 lowbit_dtype scales_dtype, int64_t begin, int64_t end);

lowbit_status out_of_memory(const Call& call, size_t bytes);

}  // namespace lowbit::codebook
