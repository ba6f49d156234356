// What happens to x before the product: widening, BinaryMoS's router and input scales, quantisation.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

// How a token becomes integers; the members mean what those of Columns (cpu/bits/bits.h) do. For a group of
// inputs with the largest magnitude amax, all in fp32:
//
//   scale = amax / max_code      inverse = max_code / amax
//   bits == 0:  v = rne(x * inverse)
//   bits == A:  v = 2 floor((x * inverse + 2^A) / 2) - max_code      the nearest odd value, max_code = 2^A -
//   1
//
// amax of 0, or so small that the inverse overflows: scale 0, codes 0. A v wider than a byte becomes two
// columns:
//
//   radix_shift 8:  v0 = (v + 128) >> 8, v1 = v - 256 v0      radix_shift 4:  v0 = v >> 4, v1 = v & 15
struct CodeFormat {
  int32_t bits;
  int32_t max_code;
  int32_t per_token;
  int32_t radix_shift;
  int64_t in_features;
  int64_t k_blocks;
  int64_t x_group_blocks;
};

// `fast` and `high` (activation_bits 0), or bipolar codes of 1..8 bits.
CodeFormat code_format(lowbit_precision precision, int32_t activation_bits, int64_t in_features);

// Rows of n values at any alignment. Every result depends on its row alone: sums run over k in one fixed
// order.
struct ActivationKernels {
  // out = x
  void (*widen)(const void* x, lowbit_dtype dtype, int64_t n, float* out);
  // sum_k x[k] table[k]
  float (*dot)(const float* x, const void* table, lowbit_dtype dtype, int64_t n);
  // out[k] = x[k] sum_e gates[e] tables[e][k]
  void (*mix)(const float* x, const void* tables, lowbit_dtype dtype, const float* gates, int32_t experts,
              int64_t n, float* out);
  // Whether n (a multiple of 32) values are all finite.
  bool (*finite)(const float* x, int64_t n);
  // One token of format.k_blocks * 32 values (padding 0) into codes, sums and scales as Columns lays them
  // out. A non-finite value: codes and sums 0, scales NaN.
  void (*quantize)(const float* x, const CodeFormat& format, int8_t* codes, int32_t* sums, float* scales);
};

// Table of one instruction set. The caller has checked that this machine can run it.
const ActivationKernels& activation_kernels(lowbit_isa isa);

}  // namespace lowbit
