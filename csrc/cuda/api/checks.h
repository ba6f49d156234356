// Checks of what callers of the C interface hand over. Each throws an Error that says what was found and what
// is allowed; nothing has been launched by then.
#pragma once

#include <cstdint>

#include "cuda/bits/bits.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda {

inline constexpr size_t kWorkspaceAlign = 16;

void check_not_null(const void* pointer, const char* name);
void check_range(int64_t value, int64_t smallest, int64_t largest, const char* name);
void check_dtype(lowbit_dtype dtype, const char* name);

void check_device(const lowbit_cuda_device* device);
void check_input(const lowbit_input* x, int64_t in_features);
void check_output(const lowbit_output* y, int64_t rows, int64_t out_features);
// The pointer, and the table behind it, may be null: no bias.
void check_bias(const lowbit_vector* bias, int64_t out_features);
void check_workspace(const void* workspace, size_t bytes, size_t needed);

// Dimensions, digits and group size: what describes a weight; `name` ("weight", "segment 2") opens the
// sentence.
void check_layout(const lowbit_cuda_bits& bits, const char* name);
// The same, and the pointers of a weight that is to be multiplied.
void check_bits(const lowbit_cuda_bits& bits, const char* name);
void check_experts(int32_t experts, const char* name);
// Bits, and everything about the experts.
void check_signs(const lowbit_cuda_signs& segment, const char* name);
// A prefix of the code that ends where a digit ends.
void check_active_bits(const lowbit_cuda_bits& bits, int32_t active_bits);

}  // namespace lowbit::cuda
