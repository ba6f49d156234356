// What the C entries of the family share.
#pragma once

#include <algorithm>

#include "cuda/activations/prologue.h"
#include "cuda/api/checks.h"
#include "cuda/bits/bits.h"
#include "cuda/error.h"
#include "cuda/plan/codebook.h"
#include "cuda/plan/json.h"
#include "cuda/plan/matmul.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda::codebook {

// Rows and inputs are counted in 32 bits by the kernels, with room for rounding up.
inline void check_size(int64_t out_features, int64_t in_features) {
  constexpr int64_t kMost = int64_t{1} << 30;
  check_range(out_features, 1, kMost, "out_features");
  check_range(in_features, 1, kMost, "in_features");
}

// What repacking made, or is to make: kernels read it 16 bytes at a time.
inline void check_packed(const void* packed) {
  check_not_null(packed, "packed");
  if (reinterpret_cast<uintptr_t>(packed) % 16 == 0) return;
  throw Error(LOWBIT_INVALID_ARGUMENT, "packed is at address %p; allowed: multiples of 16", packed);
}

inline void check_linear(const lowbit_cuda_device* device, const lowbit_input* x, const lowbit_vector* bias,
                         lowbit_precision precision, const lowbit_output* y, int64_t out_features,
                         int64_t in_features) {
  check_device(device);
  check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision");
  check_input(x, in_features);
  check_output(y, x->rows, out_features);
  check_bias(bias, out_features);
}

inline void check_query(const lowbit_cuda_device* device, int64_t tokens, lowbit_precision precision) {
  check_device(device);
  check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision");
  check_range(tokens, 0, INT64_MAX, "tokens");
}

inline Result result_of(const lowbit_output& y, const lowbit_vector* bias) {
  const bool has_bias = bias != nullptr && bias->data != nullptr;
  return {y.data, y.dtype, y.row_stride, has_bias ? bias->data : nullptr,
          has_bias ? bias->dtype : LOWBIT_F32};
}

inline PrologueInput prologue_of(const lowbit_input& x) {
  PrologueInput input{};
  input.x = x.data;
  input.dtype = x.dtype;
  input.stride = x.row_stride;
  input.tokens = x.rows;
  input.in_features = x.cols;
  input.sets = 1;
  return input;
}

inline int64_t tokens_of_turn(int64_t tokens) {
  return tokens < kMostTokens ? tokens : kMostTokens;
}

inline int64_t turns_of(int64_t tokens) {
  return (tokens + kMostTokens - 1) / kMostTokens;
}

// What bytes_for(tokens) is at most for a turn of `tokens` and for what may be left for the last one, which
// another kernel may serve.
template <class BytesFor>
size_t most_bytes(int64_t tokens, const BytesFor& bytes_for) {
  return std::max(bytes_for(tokens), bytes_for(std::min(tokens, kMatmulTokens)));
}

// Of all turns, where one of so many tokens makes launches_for(tokens).
template <class LaunchesFor>
int64_t launches_of(int64_t tokens, const LaunchesFor& launches_for) {
  const int64_t left = tokens % kMostTokens;
  return tokens / kMostTokens * launches_for(kMostTokens) + (left > 0 ? launches_for(left) : 0);
}

// The prologue, and for every tile an expansion, the caller's product and what follows it.
inline int64_t matmul_launches(const Plan& plan, int64_t out_features) {
  return 1 + 3 * ((out_features + plan.tile_rows - 1) / plan.tile_rows);
}

inline int64_t bytes_of(lowbit_dtype dtype) {
  return dtype == LOWBIT_F32 ? 4 : 2;
}

// use(x, y) for every kMostTokens rows of x and y.
template <class Use>
void for_turns(const lowbit_input& x, const lowbit_output& y, const Use& use) {
  for (int64_t m = 0; m < x.rows; m += kMostTokens) {
    lowbit_input some_x = x;
    some_x.data = static_cast<const char*>(x.data) + m * x.row_stride * bytes_of(x.dtype);
    lowbit_output some_y = y;
    some_y.data = static_cast<char*>(y.data) + m * y.row_stride * bytes_of(y.dtype);
    some_x.rows = some_y.rows = tokens_of_turn(x.rows - m);
    use(some_x, some_y);
  }
}

inline size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// C entries that families have in common. A Family says what its structure `Weight` is, which of its members
// must be there, and what its kernels need.

template <class Family>
lowbit_status workspace_entry(const lowbit_cuda_device* device, const typename Family::Weight* weight,
                              int64_t tokens, lowbit_precision precision, size_t* bytes) {
  return guarded([&] {
    Family::check_shape(weight);
    check_query(device, tokens, precision);
    check_not_null(bytes, "bytes");
    *bytes = Family::workspace_bytes(*weight, *device, tokens_of_turn(tokens), precision);
    return LOWBIT_OK;
  });
}

template <class Family>
lowbit_status explain_entry(const lowbit_cuda_device* device, const typename Family::Weight* weight,
                            int64_t tokens, lowbit_precision precision, lowbit_dtype dtype, char* text,
                            size_t capacity, size_t* length) {
  return guarded([&] {
    Family::check_shape(weight);
    check_query(device, tokens, precision);
    check_dtype(dtype, "activations");
    copy_text(Family::explain(*weight, *device, tokens, precision, dtype), text, capacity, length);
    return LOWBIT_OK;
  });
}

// Of families whose weights are repacked:

template <class Family>
lowbit_status size_entry(const typename Family::Weight* weight, size_t* packed_bytes) {
  return guarded([&] {
    Family::check_shape(weight);
    check_not_null(packed_bytes, "packed_bytes");
    *packed_bytes = Family::packed_of(*weight).bytes;
    return LOWBIT_OK;
  });
}

template <class Family>
lowbit_status repack_entry(const typename Family::Weight* weight, const uint8_t* canonical, void* packed,
                           void* stream) {
  return guarded([&] {
    Family::check_shape(weight);
    Family::check_tables(*weight);
    check_not_null(canonical, Family::kCanonical);
    check_packed(packed);
    Family::repack(*weight, canonical, static_cast<char*>(packed), static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

template <class Family>
lowbit_status restore_entry(const typename Family::Weight* weight, uint8_t* canonical, void* stream) {
  return guarded([&] {
    Family::check_shape(weight);
    check_packed(weight->packed);
    check_not_null(canonical, Family::kCanonical);
    Family::restore(*weight, canonical, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

}  // namespace lowbit::cuda::codebook
