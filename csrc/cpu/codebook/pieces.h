// Which layers of the family may meet many tokens in tile registers: as pieces, numbers in bf16 that add up
// to the value. Nothing but constants, so that the Python module can say what the library does.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit::codebook {

// From so many tokens on panels are worth it. Their sums differ in order, and so in their last bits, from
// those of the forms for few tokens, which batches of up to 32 must keep.
constexpr int64_t kPanelTokens = 48;
static_assert(kPanelTokens > 32);

// Pieces of an activation; 0: products are of fp32 values. For layers that take activations as they are: bf16
// is one piece, fp16 two, and fp32 has too many, in tables too.
constexpr int32_t vector_pieces(lowbit_dtype x, lowbit_precision precision, lowbit_dtype tables) {
  if (precision != LOWBIT_FAST || x == LOWBIT_F32 || tables == LOWBIT_F32) return 0;
  return x == LOWBIT_BF16 ? 1 : 2;
}

// Sums by label, where columns of the weight are copies, are of fp32 values.
constexpr int32_t channel_pieces(lowbit_dtype x, lowbit_precision precision, lowbit_dtype tables,
                                 int32_t axis) {
  return axis == 0 ? vector_pieces(x, precision, tables) : 0;
}

// Of int8 codes, whatever they were.
constexpr int32_t scalar_pieces(lowbit_precision precision, lowbit_dtype tables) {
  return precision == LOWBIT_FAST && tables != LOWBIT_F32 ? 1 : 0;
}

}  // namespace lowbit::codebook
