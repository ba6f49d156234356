// Dense products with 16-bit (or fp32) weights that are widened in registers, and the last step of every
// layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "cpu/codebook/codebook.h"
#include "cpu/isa/floats.h"
#include "cpu/isa/inline.h"

namespace lowbit::codebook {

// Multiply-adds of a lane before they join the sum: what a longer chain rounds away adds up.
constexpr int64_t kChain = 128;

// sums[m + t][n + r] for kRows x kTokens pairs. Each pair has the same chains of fused multiply-adds per
// lane, so it gets the same bits in blocks of any size.
template <class V, lowbit_dtype kType, int kRows, int kTokens>
void dense_block(const DenseWeight& weight, const DenseTokens& x, const Sums& sums, int64_t n, int64_t m) {
  using F32 = typename V::F32;
  constexpr int64_t kSize = kType == LOWBIT_F32 ? 4 : 2;
  const char* const rows = static_cast<const char*>(weight.data) + n * weight.cols * kSize;
  const float* const tokens = x.data + m * x.stride;
  F32 total[kRows][kTokens], chain[kRows][kTokens];
  for (auto& row : total) {
    for (F32& t : row) t = V::fset1(0.0f);
  }
  const auto step = [&](const char* base, int64_t stride, int64_t offset, int64_t k) LOWBIT_LAMBDA_INLINE {
    F32 a[kTokens];
    for (int t = 0; t < kTokens; ++t) a[t] = V::fload(tokens + t * x.stride + k);
    for (int r = 0; r < kRows; ++r) {
      const F32 w = load_floats<V, kType>(base + r * stride, offset);
      for (int t = 0; t < kTokens; ++t) chain[r][t] = V::fma(w, a[t], chain[r][t]);
    }
  };
  const int64_t whole = weight.cols / V::kLanes * V::kLanes;
  int64_t k = 0;
  do {
    for (auto& row : chain) {
      for (F32& t : row) t = V::fset1(0.0f);
    }
    const int64_t last = k + std::min(kChain * V::kLanes, whole - k);
    for (; k < last; k += V::kLanes) step(rows, weight.cols * kSize, k, k);
    if (k == whole && k < weight.cols) {
      // The last columns of the rows, copied out and padded with 0 so that nothing beyond the matrix is read.
      alignas(64) char tail[kRows][V::kLanes * kSize] = {};
      for (int r = 0; r < kRows; ++r) {
        std::memcpy(tail[r], rows + (r * weight.cols + k) * kSize,
                    static_cast<size_t>((weight.cols - k) * kSize));
      }
      step(tail[0], V::kLanes * kSize, 0, k);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) total[r][t] = V::fadd(total[r][t], chain[r][t]);
    }
  } while (k < whole);
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      sums.data[(m + t) * sums.stride + n + r] = V::horizontal_sum(total[r][t]);
    }
  }
}

// kRows rows for all tokens: the rows come from memory once, tokens again and again from a cache.
template <class V, lowbit_dtype kType, int kRows>
void dense_rows(const DenseWeight& weight, const DenseTokens& x, const Sums& sums, int64_t n) {
  // kSide rows times 4 tokens: half of the registers are accumulators.
  constexpr int kSide = kRows == 1 ? 1 : V::kLanes == 16 ? 4 : 2;
  int64_t m = 0;
  for (; m + 4 <= x.tokens; m += 4) {
    for (int r = 0; r < kRows; r += kSide) dense_block<V, kType, kSide, 4>(weight, x, sums, n + r, m);
  }
  for (; m < x.tokens; ++m) dense_block<V, kType, kRows, 1>(weight, x, sums, n, m);
}

template <class V, lowbit_dtype kType>
void dense_range(const DenseWeight& weight, const DenseTokens& x, const Sums& sums, int64_t begin,
                 int64_t end) {
  int64_t n = begin;
  for (; n + 8 <= end; n += 8) dense_rows<V, kType, 8>(weight, x, sums, n);
  for (; n < end; ++n) dense_rows<V, kType, 1>(weight, x, sums, n);
}

template <class V>
void dense(const DenseWeight& weight, const DenseTokens& x, const Sums& sums, int64_t begin, int64_t end) {
  switch (weight.dtype) {
    case LOWBIT_F32:
      return dense_range<V, LOWBIT_F32>(weight, x, sums, begin, end);
    case LOWBIT_F16:
      return dense_range<V, LOWBIT_F16>(weight, x, sums, begin, end);
    case LOWBIT_BF16:
      return dense_range<V, LOWBIT_BF16>(weight, x, sums, begin, end);
  }
}

template <class V>
void finish(const float* sums, const void* scales, lowbit_dtype scales_dtype, const void* bias,
            lowbit_dtype bias_dtype, void* y, lowbit_dtype y_dtype, int64_t n) {
  const auto lanes = [&](const float* sum, const void* scale, const void* addend, void* out)
                         LOWBIT_LAMBDA_INLINE {
                           typename V::F32 value = V::fload(sum);
                           if (scale != nullptr)
                             value = V::fmul(value, load_floats<V>(scale, scales_dtype, 0));
                           if (addend != nullptr)
                             value = V::fadd(value, load_floats<V>(addend, bias_dtype, 0));
                           if (y_dtype == LOWBIT_F32) {
                             V::fstore(static_cast<float*>(out), value);
                           } else if (y_dtype == LOWBIT_F16) {
                             V::store_f16(static_cast<uint16_t*>(out), value);
                           } else {
                             V::store_bf16(static_cast<uint16_t*>(out), value);
                           }
                         };
  const auto from = [](const void* values, lowbit_dtype dtype, int64_t i) {
    return values == nullptr ? nullptr : static_cast<const char*>(values) + i * dtype_size(dtype);
  };
  char* const out = static_cast<char*>(y);
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    lanes(sums + i, from(scales, scales_dtype, i), from(bias, bias_dtype, i), out + i * dtype_size(y_dtype));
  }
  if (i == n) return;
  // The last values, copied out so that nothing beyond the arrays is read or written.
  const auto left = static_cast<size_t>(n - i);
  alignas(64) float last[V::kLanes] = {}, scale[V::kLanes] = {}, addend[V::kLanes] = {}, result[V::kLanes];
  std::memcpy(last, sums + i, left * sizeof(float));
  if (scales != nullptr) {
    std::memcpy(scale, from(scales, scales_dtype, i), left * static_cast<size_t>(dtype_size(scales_dtype)));
  }
  if (bias != nullptr) {
    std::memcpy(addend, from(bias, bias_dtype, i), left * static_cast<size_t>(dtype_size(bias_dtype)));
  }
  lanes(last, scales == nullptr ? nullptr : scale, bias == nullptr ? nullptr : addend, result);
  std::memcpy(out + i * dtype_size(y_dtype), result, left * static_cast<size_t>(dtype_size(y_dtype)));
}

}  // namespace lowbit::codebook
