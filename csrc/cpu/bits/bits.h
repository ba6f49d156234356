// Product of activations with bit tiles. One family of kernels serves `signs` (one plane) and `planes`.
//
// Bit tiles are described at lowbit_bits in lowbit.h. The kernels below see activations that a prologue has
// prepared (csrc/cpu/activations) and write finished rows of y.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lowbit.h"

namespace lowbit {

// Quantised activations. A token is one or two int8 columns; its integer value is
//   per_token == 1:  v0          per_token == 2:  (v0 << radix_shift) + v1
// and its real value is that times the scale of its group of x_group_blocks blocks of 32 inputs.
//
//   codes   [tokens][per_token][k_blocks][8 j][4 c]   code of input 32 b + 8 c + j of block b
//   sums    [tokens][per_token][k_blocks]             sum of the 32 codes of a block
//   scales  [tokens][ceil(k_blocks / x_group_blocks)]
//
// The order [j][c] puts the four inputs that share bit j of a dword's four bytes side by side, so that
// `bits & (0x01010101 << j)` meets them without any shuffle:
//
//   dword of a row   byte 0           byte 1            byte 2            byte 3
//                    inputs 0..7      inputs 8..15      inputs 16..23     inputs 24..31
//   bit j            input j          input 8 + j       input 16 + j      input 24 + j
//   codes[j][0..3]   code of j        code of 8 + j     code of 16 + j    code of 24 + j
//
// Padding inputs have code 0. A token with a non-finite input has codes 0 and all its scales NaN.
struct Columns {
  int64_t tokens;
  int32_t per_token;    // 1 or 2
  int32_t radix_shift;  // of v0, where per_token == 2
  int32_t max_code;     // bound of |integer value|: 127, 32639 or 2^A - 1
  int64_t k_blocks;
  int64_t x_group_blocks;  // >= 1; k_blocks (or more): one scale per token
  const int8_t* codes;
  const int32_t* sums;
  const float* scales;
  const uint8_t* tables;  // that build_tables() has made of a single column; null: none
};

// Float activations for `exact`: [tokens][k_blocks * 32], padding 0. A token with a non-finite input has NaN
// as its first value, which is enough to make its whole row of y NaN.
struct FloatColumns {
  int64_t tokens;
  int64_t k_blocks;
  const float* values;
};

// What happens to a finished sum: y = sum * (sum_e gates[m][e] out_scales[e][n]) + bias[n], cast to y_dtype.
// Pointers are at the first row of the layer (or of the segment of a fused call).
struct Epilogue {
  const float* gates;      // [tokens][experts]; null: one expert with gate 1
  int32_t experts;         // rows of out_scales, 1 where gates are null
  const void* out_scales;  // null: no scaling
  lowbit_dtype out_scales_dtype;
  int64_t out_scales_stride;
  const void* bias;  // null: none
  lowbit_dtype bias_dtype;
  void* y;
  lowbit_dtype y_dtype;
  int64_t y_stride;
};

// Compute row tiles [tile_begin, tile_end) for all tokens with the first `active_planes` planes. Any shapes,
// no allocation, no failure; tiles are independent, so threads take ranges of them. A result depends neither
// on the number of tokens in the call nor on the range a tile is computed in.
struct BitsKernels {
  // work: work_bytes() of memory for the calling thread alone, as aligned as a Scratch.
  void (*product)(const lowbit_bits& weight, int active_planes, const Columns& x, const Epilogue& epilogue,
                  int64_t tile_begin, int64_t tile_end, std::byte* work);
  void (*product_exact)(const lowbit_bits& weight, int active_planes, const FloatColumns& x,
                        const Epilogue& epilogue, int64_t tile_begin, int64_t tile_end);
  // What product() keeps between its passes over so many columns, tens of KB. It stays off the stack, which
  // of a lent thread may be small; there up to 34 KB are used, by the expanded form's blocks of columns.
  int64_t (*work_bytes)(int active_planes, int64_t columns);
  // Fewer tiles than this in a call to product() lose time to what it prepares for all of them.
  int64_t (*least_tiles)(int active_planes, int64_t columns);
  // Look-up tables of a single column: their bytes, or 0 where product() wants none for about `tiles` tiles.
  // Whoever takes several ranges of tiles makes them once, and then any number of tiles will do.
  int64_t (*table_bytes)(int active_planes, int64_t columns, int64_t k_blocks, int64_t tiles);
  // Makes them, and fetches the first weights of `tile` meanwhile.
  void (*build_tables)(const lowbit_bits& weight, int64_t tile, const Columns& x, uint8_t* tables);
};

// Table of one instruction set. The caller has checked that this machine can run it.
const BitsKernels& bits_kernels(lowbit_isa isa);

// Columns from which `isa` multiplies so many planes in tile registers; 0: it has none.
int64_t tile_columns(lowbit_isa isa, int active_planes);
int64_t tile_columns_amx(int active_planes);

// One table per bits_<isa>.cpp; only those of this architecture are linked.
extern const BitsKernels kBitsScalar, kBitsAvx2, kBitsAvxVnni, kBitsAvx512, kBitsAmx, kBitsNeon;

}  // namespace lowbit
