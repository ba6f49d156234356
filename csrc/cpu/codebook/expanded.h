// The product for many tokens: some rows become fp32 in a cache and meet a block of tokens as a dense matrix.
#pragma once

#include <cstdint>

#include "core/function_ref.h"
#include "cpu/codebook/linear.h"

namespace lowbit::codebook {

// From so many tokens on expanding rows is worth it. Their sums differ in order, and so in their last bits,
// from those of the forms for few tokens, which batches of up to 32 must keep.
constexpr int64_t kExpandedTokens = 48;
static_assert(kExpandedTokens > 32);

// Tokens that meet expanded rows: their fp32 values fit the last level cache.
constexpr int64_t kExpandedBlock = 256;

// expand(row, count, weight, stride): `count` <= kExpandedRows rows from `row` on, fp32 [count][stride].
using ExpandRows = FunctionRef<void(int64_t row, int64_t count, float* weight, int64_t stride)>;
// What the widest kernel takes at a time; narrow layers must do for many threads.
constexpr int64_t kExpandedRows = 12;

// load(m, thread, values): token m in fp32 [padded(K)], padding 0, by one of get_num_threads() threads.
using LoadToken = FunctionRef<void(int64_t m, int thread, float* values)>;

// y = (x expandedᵀ) * scales + bias for call.x.cols inputs; null scales are left out. Fails only when memory
// is short.
lowbit_status expanded_linear(const Call& call, LoadToken load, ExpandRows expand, const void* scales,
                              lowbit_dtype scales_dtype);

}  // namespace lowbit::codebook
