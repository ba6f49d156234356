// Dense rows times a few tokens in fp32 on the CUDA cores: memory-bound where the family needs them, with
// batches of up to a dozen tokens.
#pragma once

#include "cuda/activations/octets.h"
#include "cuda/activations/reduce.h"
#include "cuda/codebook/dense_block.h"

namespace lowbit::cuda::codebook {

static_assert(kDenseLaneInputs == 2 * kOctet);

// Matrix whose rows are products' operands: [rows][size] of a dtype known at run time, rows `stride` elements
// apart.
struct Rows {
  const void* data;
  lowbit_dtype dtype;
  int64_t stride, size;

  LOWBIT_DEVICE Row row(int64_t index) const {
    const int64_t bytes = dtype == LOWBIT_F32 ? 4 : 2;
    return Row(static_cast<const char*>(data) + index * stride * bytes, dtype, size);
  }
};

// Sums of one lane over its share of the inputs.
struct DenseSums {
  float sums[kDenseRows][kDenseTokens] = {};
  // 0 while all inputs of a token are finite, else NaN: goes into every sum, so that no finite one is left.
  float poison[kDenseTokens] = {};

  // Adds rows[r] . x.row(first_token + m) over the octets lane, lane + lanes, ...; m < tokens <=
  // kDenseTokens.
  LOWBIT_DEVICE void add(const Row (&rows)[kDenseRows], const Rows& x, int64_t first_token, int tokens,
                         int lane, int lanes) {
    const int octets = static_cast<int>((x.size + kOctet - 1) / kOctet);
#pragma unroll 1
    for (int octet = lane; octet < octets; octet += lanes) {
      RawOctet raw[kDenseRows];
#pragma unroll
      for (int r = 0; r < kDenseRows; ++r) raw[r] = rows[r].load(octet);
      float w[kDenseRows][kOctet];
#pragma unroll
      for (int r = 0; r < kDenseRows; ++r) widen(raw[r], rows[r].dtype(), w[r]);
#pragma unroll
      for (int m = 0; m < kDenseTokens; ++m) {
        if (m >= tokens) continue;
        float values[kOctet];
        widen(x.row(first_token + m).load(octet), x.dtype, values);
#pragma unroll
        for (int i = 0; i < kOctet; ++i) {
          poison[m] = fmaf(values[i], 0.0f, poison[m]);
#pragma unroll
          for (int r = 0; r < kDenseRows; ++r) sums[r][m] = fmaf(w[r][i], values[i], sums[r][m]);
        }
      }
    }
  }

  // Adds over the `warps` warps (1, 2, 4 or 8) that share the rows, in ascending order. The whole block
  // calls; store(r, m, sum) is called for m < tokens by lanes of the first of these warps.
  template <class Store>
  LOWBIT_DEVICE void finish(int tokens, int warps, float* partial, const Store& store) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int m = 0; m < kDenseTokens; ++m) {
      if (m >= tokens) continue;
#pragma unroll
      for (int r = 0; r < kDenseRows; ++r) {
        const float sum = reduce_lanes<32>(sums[r][m] + poison[m], Sum{});
        if (lane == 0) partial[warp * kDenseSums + r * kDenseTokens + m] = sum;
      }
    }
    __syncthreads();
    const int r = lane / kDenseTokens, m = lane % kDenseTokens;
    if (warp % warps != 0 || m >= tokens) return;
    float sum = partial[warp * kDenseSums + lane];
    for (int w = 1; w < warps; ++w) sum += partial[(warp + w) * kDenseSums + lane];
    store(r, m, sum);
  }
};

}  // namespace lowbit::cuda::codebook
