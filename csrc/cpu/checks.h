// Checks of what callers of the C interface hand over. Each returns LOWBIT_OK or records one sentence that
// says what was found and what is allowed, so that entry points read
//
//   if (const lowbit_status bad = check_input(x, k)) return bad;
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

lowbit_status check_not_null(const void* pointer, const char* name) noexcept;
lowbit_status check_range(int64_t value, int64_t smallest, int64_t largest, const char* name) noexcept;
lowbit_status check_dtype(lowbit_dtype dtype, const char* name) noexcept;

// Dimensions, tiles, scales and group size; `name` ("weight", "segment 2") opens the sentence.
lowbit_status check_bits(const lowbit_bits& bits, const char* name) noexcept;
// As above, and the router and input scales of the experts.
lowbit_status check_signs(const lowbit_signs& segment, const char* name) noexcept;
// Every layer of a fused call with its output scales. All have planes from active_bits to most_planes, a
// layer with experts one. Gives the sum of their outputs.
lowbit_status check_segments(const lowbit_signs* segments, int32_t num_segments, int32_t active_bits,
                             int32_t most_planes, int64_t* out_features) noexcept;
lowbit_status check_input(const lowbit_input* x, int64_t in_features) noexcept;
lowbit_status check_output(const lowbit_output* y, int64_t rows, int64_t out_features) noexcept;
// The pointer, and the table behind it, may be null: no bias.
lowbit_status check_bias(const lowbit_vector* bias, int64_t out_features) noexcept;

}  // namespace lowbit
