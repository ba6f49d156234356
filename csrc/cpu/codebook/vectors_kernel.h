// Vector codebooks: first the products of all 256 vectors with each position's inputs, then sums by code.
//
// A position j is vector_size consecutive inputs. With products[j][c][i] = codebooks[c][i] . x_j a row needs
// one load and one addition per code, however long the vectors are. The products take 1 KiB per position,
// codebook and token, so the caller keeps as many positions at a time as fit the cache.
#pragma once

#include <cstdint>

#include "cpu/codebook/codebook.h"
#include "cpu/isa/inline.h"

namespace lowbit::codebook {

constexpr int64_t kCodes = 256;

// One token: lanes are neighbouring codes. A block of kLanes tokens: lanes are tokens. Both add the same
// fused products in the same order.
template <class V>
void vector_products(const Codebooks& codebooks, const float* x, int32_t block, int64_t begin, int64_t end,
                     float* products) {
  using F32 = typename V::F32;
  const int32_t size = codebooks.vector_size;
  for (int64_t j = begin; j < end; ++j) {
    const float* const inputs = x + j * size * block;
    for (int32_t c = 0; c < codebooks.num_codebooks; ++c) {
      const float* const vectors = codebooks.data + c * size * kCodes;
      float* const out = products + (j * codebooks.num_codebooks + c) * kCodes * block;
      if (block == 1) {
        for (int64_t i = 0; i < kCodes; i += V::kLanes) {
          F32 sum = V::fset1(0.0f);
          for (int32_t d = 0; d < size; ++d) {
            sum = V::fma(V::fload(vectors + d * kCodes + i), V::fset1(inputs[d]), sum);
          }
          V::fstore(out + i, sum);
        }
      } else {
        for (int64_t i = 0; i < kCodes; ++i) {
          F32 sum = V::fset1(0.0f);
          for (int32_t d = 0; d < size; ++d) {
            sum = V::fma(V::fset1(vectors[d * kCodes + i]), V::fload(inputs + d * V::kLanes), sum);
          }
          V::fstore(out + i * V::kLanes, sum);
        }
      }
    }
  }
}

// Rows that are summed side by side: their additions are independent chains.
constexpr int kSumRows = 8;

// `One` is float (one token) or V::F32 (a block of kLanes tokens).
template <class V, class One, int kRows>
LOWBIT_INLINE void vector_sums_block(const lowbit_codebook_vector& weight, const float* products, int64_t row,
                                     int64_t first, int64_t positions, float* sums) {
  constexpr int64_t kBlock = sizeof(One) / sizeof(float);
  const int32_t codebooks = weight.num_codebooks;
  const int64_t row_bytes = (weight.in_features + weight.vector_size - 1) / weight.vector_size;
  const int64_t plane = weight.out_features * row_bytes;
  const uint8_t* const codes = weight.codes + row * row_bytes + first;
  const auto load = [](const float* p) LOWBIT_LAMBDA_INLINE -> One {
    if constexpr (kBlock == 1) {
      return *p;
    } else {
      return V::fload(p);
    }
  };
  One total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = load(sums + r * kBlock);
  for (int64_t j = 0; j < positions; ++j) {
    for (int32_t c = 0; c < codebooks; ++c, products += kCodes * kBlock) {
      const uint8_t* const at = codes + c * plane + j;
      for (int r = 0; r < kRows; ++r) {
        const One product = load(products + at[r * row_bytes] * kBlock);
        if constexpr (kBlock == 1) {
          total[r] += product;
        } else {
          total[r] = V::fadd(total[r], product);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kBlock == 1) {
      sums[r] = total[r];
    } else {
      V::fstore(sums + r * kBlock, total[r]);
    }
  }
}

template <class V>
void vector_sums(const lowbit_codebook_vector& weight, const float* products, int32_t block, int64_t first,
                 int64_t positions, float* sums, int64_t begin, int64_t end) {
  using Block = typename V::F32;
  int64_t n = begin;
  for (; n + kSumRows <= end; n += kSumRows) {
    if (block == 1) {
      vector_sums_block<V, float, kSumRows>(weight, products, n, first, positions, sums + n);
    } else {
      vector_sums_block<V, Block, kSumRows>(weight, products, n, first, positions, sums + n * block);
    }
  }
  for (; n < end; ++n) {
    if (block == 1) {
      vector_sums_block<V, float, 1>(weight, products, n, first, positions, sums + n);
    } else {
      vector_sums_block<V, Block, 1>(weight, products, n, first, positions, sums + n * block);
    }
  }
}

}  // namespace lowbit::codebook
