#include "cpu/codebook/linear.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/half.h"

namespace lowbit::codebook {

Call Call::tokens(int64_t first, int64_t count) const {
  Call some = *this;
  some.x.data = static_cast<const char*>(x.data) + first * x.row_stride * dtype_size(x.dtype);
  some.y.data = static_cast<char*>(y.data) + first * y.row_stride * dtype_size(y.dtype);
  some.x.rows = some.y.rows = count;
  return some;
}

void load_token(const Call& call, int64_t m, float* values) {
  const lowbit_input& x = call.x;
  const auto* const row = static_cast<const char*>(x.data) + m * x.row_stride * dtype_size(x.dtype);
  call.activations.widen(row, x.dtype, x.cols, values);
  std::fill(values + x.cols, values + padded(x.cols), 0.0f);
  if (!call.activations.finite(values, padded(x.cols))) {
    std::fill(values, values + padded(x.cols), std::numeric_limits<float>::quiet_NaN());
  }
}

void finish_rows(const Call& call, int64_t m, const float* sums, const void* scales,
                 lowbit_dtype scales_dtype, int64_t begin, int64_t end) {
  const lowbit_output& y = call.y;
  const auto offset = [&](const void* data, lowbit_dtype dtype) {
    return data == nullptr ? nullptr : static_cast<const char*>(data) + begin * dtype_size(dtype);
  };
  const lowbit_vector bias = call.bias != nullptr ? *call.bias : lowbit_vector{nullptr, LOWBIT_F32, 0};
  call.kernels.finish(
      sums, offset(scales, scales_dtype), scales_dtype, offset(bias.data, bias.dtype), bias.dtype,
      static_cast<char*>(y.data) + (m * y.row_stride + begin) * dtype_size(y.dtype), y.dtype, end - begin);
}

lowbit_status out_of_memory(const Call& call, size_t bytes) {
  return fail(LOWBIT_OUT_OF_MEMORY, "no memory for %lld tokens of %lld inputs and %lld outputs (%zu bytes)",
              static_cast<long long>(call.x.rows), static_cast<long long>(call.x.cols),
              static_cast<long long>(call.y.cols), bytes);
}

}  // namespace lowbit::codebook
