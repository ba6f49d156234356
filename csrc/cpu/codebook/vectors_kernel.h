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

// Codes whose products with a block of tokens are made side by side.
constexpr int kProductCodes = 8;

// Products of one codebook with a position's `inputs` [size][kLanes] for a block of kLanes tokens; `finish`
// is what becomes of a vector of products.
template <class V, class Product, class Finish>
LOWBIT_INLINE void block_products(const float* vectors, int32_t size, const float* inputs, Product* products,
                                  Finish finish) {
  using F32 = typename V::F32;
  for (int64_t i = 0; i < kCodes; i += kProductCodes) {
    F32 sum[kProductCodes];
    for (F32& each : sum) each = V::fset1(0.0f);
    for (int32_t d = 0; d < size; ++d) {
      const F32 input = V::fload(inputs + d * V::kLanes);
      for (int r = 0; r < kProductCodes; ++r) {
        sum[r] = V::fma(V::fset1(vectors[d * kCodes + i + r]), input, sum[r]);
      }
    }
    for (int r = 0; r < kProductCodes; ++r) finish(products + (i + r) * V::kLanes, sum[r]);
  }
}

// The same for one token, where lanes are neighbouring codes: the same fused products in the same order.
template <class V>
LOWBIT_INLINE void token_products(const float* vectors, int32_t size, const float* inputs, float* products) {
  using F32 = typename V::F32;
  for (int64_t i = 0; i < kCodes; i += V::kLanes) {
    F32 sum = V::fset1(0.0f);
    for (int32_t d = 0; d < size; ++d) {
      sum = V::fma(V::fload(vectors + d * kCodes + i), V::fset1(inputs[d]), sum);
    }
    V::fstore(products + i, sum);
  }
}

template <class V>
void vector_products(const Codebooks& codebooks, const float* x, int32_t block, int64_t begin, int64_t end,
                     float* products) {
  const int32_t size = codebooks.vector_size;
  for (int64_t j = begin; j < end; ++j) {
    for (int32_t c = 0; c < codebooks.num_codebooks; ++c) {
      const float* const vectors = codebooks.data + c * size * kCodes;
      float* const out = products + (j * codebooks.num_codebooks + c) * kCodes * block;
      if (block == 1) {
        token_products<V>(vectors, size, x + j * size, out);
      } else {
        block_products<V>(vectors, size, x + j * size * block, out, V::fstore);
      }
    }
  }
}

template <class V>
void vector_integer_products(const Codebooks& codebooks, const float* x, const float* inverses, int64_t begin,
                             int64_t end, int32_t* products) {
  using F32 = typename V::F32;
  const F32 to_steps = V::fload(inverses);
  const auto finish = [&](int32_t* out, F32 sum)
                          LOWBIT_LAMBDA_INLINE { V::store(out, V::to_int(V::fmul(sum, to_steps))); };
  const int32_t size = codebooks.vector_size;
  for (int64_t j = begin; j < end; ++j) {
    for (int32_t c = 0; c < codebooks.num_codebooks; ++c) {
      block_products<V>(codebooks.data + c * size * kCodes, size, x + j * size * V::kLanes,
                        products + (j * codebooks.num_codebooks + c) * kCodes * V::kLanes, finish);
    }
  }
}

// Rows that are summed side by side: their additions are independent chains.
constexpr int kSumRows = 8;

// What is added: the products of one token, or of a block of kLanes tokens, in fp32 or in integers.
struct TokenFloats {
  using Number = float;
  using Sum = float;
  static constexpr int64_t kTokens = 1;
  static LOWBIT_INLINE Sum load(const float* p) { return *p; }
  static LOWBIT_INLINE Sum add(Sum a, Sum b) { return a + b; }
  static LOWBIT_INLINE void store(float* p, Sum a) { *p = a; }
};

template <class V>
struct BlockFloats {
  using Number = float;
  using Sum = typename V::F32;
  static constexpr int64_t kTokens = V::kLanes;
  static LOWBIT_INLINE Sum load(const float* p) { return V::fload(p); }
  static LOWBIT_INLINE Sum add(Sum a, Sum b) { return V::fadd(a, b); }
  static LOWBIT_INLINE void store(float* p, Sum a) { V::fstore(p, a); }
};

template <class V>
struct BlockIntegers {
  using Number = int32_t;
  using Sum = typename V::I32;
  static constexpr int64_t kTokens = V::kLanes;
  static LOWBIT_INLINE Sum load(const int32_t* p) { return V::load(p); }
  static LOWBIT_INLINE Sum add(Sum a, Sum b) { return V::add(a, b); }
  static LOWBIT_INLINE void store(int32_t* p, Sum a) { V::store(p, a); }
};

template <class Tokens, int kRows>
LOWBIT_INLINE void sum_rows(const lowbit_codebook_vector& weight, const typename Tokens::Number* products,
                            int64_t row, int64_t first, int64_t positions, typename Tokens::Number* sums) {
  constexpr int64_t kTokens = Tokens::kTokens;
  const int32_t codebooks = weight.num_codebooks;
  const int64_t row_bytes = (weight.in_features + weight.vector_size - 1) / weight.vector_size;
  const int64_t plane = weight.out_features * row_bytes;
  const uint8_t* const codes = weight.codes + row * row_bytes + first;
  typename Tokens::Sum total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = Tokens::load(sums + r * kTokens);
  for (int64_t j = 0; j < positions; ++j) {
    for (int32_t c = 0; c < codebooks; ++c, products += kCodes * kTokens) {
      const uint8_t* const at = codes + c * plane + j;
      for (int r = 0; r < kRows; ++r) {
        total[r] = Tokens::add(total[r], Tokens::load(products + at[r * row_bytes] * kTokens));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) Tokens::store(sums + r * kTokens, total[r]);
}

template <class Tokens>
LOWBIT_INLINE void sum_range(const lowbit_codebook_vector& weight, const typename Tokens::Number* products,
                             int64_t first, int64_t positions, typename Tokens::Number* sums, int64_t begin,
                             int64_t end) {
  int64_t n = begin;
  for (; n + kSumRows <= end; n += kSumRows) {
    sum_rows<Tokens, kSumRows>(weight, products, n, first, positions, sums + (n - begin) * Tokens::kTokens);
  }
  for (; n < end; ++n) {
    sum_rows<Tokens, 1>(weight, products, n, first, positions, sums + (n - begin) * Tokens::kTokens);
  }
}

template <class V>
void vector_sums(const lowbit_codebook_vector& weight, const float* products, int32_t block, int64_t first,
                 int64_t positions, float* sums, int64_t begin, int64_t end) {
  block == 1 ? sum_range<TokenFloats>(weight, products, first, positions, sums, begin, end)
             : sum_range<BlockFloats<V>>(weight, products, first, positions, sums, begin, end);
}

template <class V>
void vector_integer_sums(const lowbit_codebook_vector& weight, const int32_t* products, int64_t first,
                         int64_t positions, int32_t* sums, int64_t begin, int64_t end) {
  sum_range<BlockIntegers<V>>(weight, products, first, positions, sums, begin, end);
}

}  // namespace lowbit::codebook
