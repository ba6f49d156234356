// Kernels of the codebook family, one table of functions per instruction set.
//
// All of them leave sums that csrc/cpu/codebook/linear.cpp then finishes (scale, bias, cast). They compute
// rows [begin, end) for all tokens, allocate nothing and cannot fail. What a kernel sums for a row depends
// neither on the number of tokens in the call nor on the range; which kernel runs may.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

// A dense matrix [rows][cols] of any floating point type: centroids, low rank factors.
struct DenseWeight {
  const void* data;
  lowbit_dtype dtype;
  int64_t cols;
};

// fp32 tokens [tokens][stride], readable and 0 from `cols` up to the next multiple of 32.
struct DenseTokens {
  const float* data;
  int64_t tokens;
  int64_t stride;
};

// Some rows of a weight in fp32, [rows][stride].
struct PanelWeight {
  const float* data;
  int64_t rows, cols, stride;
};

// Tokens and rows as pieces: a value in fp32 is the sum of up to two numbers of 16 bits (bf16), rounded and
// what rounding has left, and a product is that of all pieces with all, summed in fp32. An fp16 value has no
// third piece, so its products are exact; of a value with more bits, a sum of two codebooks, 2^-17 of it is
// lost. What is subnormal, in a piece or a product, counts as 0.
//
// A panel is packed from kTokens tokens, and rows kRows at a time:
//
//   panel  [steps of 32 inputs][pieces][2][16 pairs of inputs][16 tokens][2]
//   rows   [.. of kRows][steps][2 pieces][2][16 rows][32 inputs]
struct PiecePanel {
  const uint16_t* data;
  int32_t pieces;
  const float* scales;  // [groups of inputs][kTokens], which products of codes take; null: none
};

struct PieceKernels {
  static constexpr int64_t kTokens = 32, kRows = 32, kInputs = 32;  // of a step
  static constexpr int64_t kGroup = 128;                            // inputs of a scale, as `fast` has them
  static constexpr int32_t kPieces = 2;

  // From fp32 [kTokens][stride], readable and 0 up to the next whole step.
  void (*pack_tokens)(const float* tokens, int64_t stride, int64_t inputs, int32_t pieces, uint16_t* panel);
  // From fp32 [count][stride]. Returns the pieces that are not all 0.
  int32_t (*pack_rows)(const float* rows, int64_t stride, int64_t count, int64_t inputs, uint16_t* packed);
  // sums[r][t], [whole kRows][kTokens], for the first `tokens` of a panel.
  void (*multiply)(const uint16_t* rows, int64_t count, int32_t row_pieces, const PiecePanel& panel,
                   int64_t tokens, int64_t inputs, float* sums);
};

// Sums [tokens][stride]; row n of the weight lands in column n, or n - begin where the kernel says so.
struct Sums {
  float* data;
  int64_t stride;
};

// Activations in the order in which the kernels for scalar tables extract codes. A chunk is `lanes`
// dwords of each plane, one vector of a row:
//
//   byte of a chunk     0        1        2        3      | 4 ...
//   dword lane          0                                 | 1 ...
//   bit j is input      j        8 + j    16 + j   24 + j | 32 + j ...
//
//   codes  int8  [tokens][chunks][8 j][lanes][4 t]   of input 32 lane + 8 t + j of the chunk; padding 0
//   scales float [tokens][chunks][lanes]             of the 32 inputs of a lane; NaN for a non-finite token
//   sums   float [tokens]                            sum of code * scale
//   stored_digits        room for kStoredRows rows of 3 * chunks * lanes * 32 bytes; null for few tokens
struct ChunkedCodes {
  int64_t tokens;
  int64_t chunks;
  int32_t lanes;
  const int8_t* codes;
  const float* scales;
  const float* sums;
  uint8_t* stored_digits;
};

// Rows whose digits are stored at a time: 96 KB for 4096 inputs, which the second level cache has room for.
constexpr int64_t kStoredRows = 8;

//   values float [tokens][chunks][8 j][4 t][lanes]   padding 0 (or NaN, in a token that is NaN throughout)
struct ChunkedValues {
  int64_t tokens;
  int64_t chunks;
  const float* values;
};

// Codebooks in fp32, [num_codebooks][vector_size][256]: entry i of all 256 vectors side by side.
struct Codebooks {
  const float* data;
  int32_t num_codebooks;
  int32_t vector_size;
};

// Products of vector codebooks in fixed point, in steps that a token's largest product decides: integers of
// absolute value below kHalf. As digits a product p is p + kHalf = sum_d digit_d 2^(kBits d), and with
// U = sum_d data[d][n] 2^(kBits d) the sum of `entries` products of row n is U - entries * kHalf.
struct VectorDigitSums {
  static constexpr int kDigits = 3, kBits = 7;
  static constexpr int32_t kHalf = 1 << (kDigits * kBits - 1);
  int32_t* data;  // [kDigits][stride]
  int64_t stride;
};

struct CodebookKernels {
  int32_t lanes;  // dwords of a vector

  // sums[m][n] = sum_k weight[n][k] x[m][k]
  void (*dense)(const DenseWeight& weight, const DenseTokens& x, const Sums& sums, int64_t begin,
                int64_t end);

  // sums[r][t] = sum_k weight[r][k] x[k][t] for the first `tokens` of a panel, whose rows have panel_tokens.
  int32_t panel_tokens;
  void (*multiply_panel)(const PanelWeight& weight, const float* x, int64_t tokens, float* sums);
  const PieceKernels* pieces;  // null where products of pieces are not faster

  // Both kinds of scalar tables: the sum of row n for token m lands in sums.data[m * stride + n - begin].
  // With int8 activations, for weights of up to `max_digit_bits` bits, in chunks of
  // digit_lanes(in_features, bits).
  int32_t max_digit_bits;
  int32_t (*digit_lanes)(int64_t in_features, int32_t bits);
  void (*tables_digits)(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                        int64_t begin, int64_t end);
  // With fp32 activations, any number of bits. From `expanded_bits` on picking entries for every few of many
  // tokens takes longer than expanding rows for all of them.
  int32_t expanded_bits;
  void (*tables_floats)(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                        int64_t begin, int64_t end);

  // Vector codebooks take tokens in blocks of 1 or `lanes`. `x` is [inputs][block] for the inputs of
  // positions [begin, end) (vector_size each), products [position][codebook][256][block].
  void (*vector_products)(const Codebooks& codebooks, const float* x, int32_t block, int64_t begin,
                          int64_t end, float* products);
  // sums[n - begin][block] += products[j][c][codes[c][n][first + j]], j ascending, c ascending within j, for
  // the `positions` positions that products holds. Rows [begin, end).
  void (*vector_sums)(const lowbit_codebook_vector& weight, const float* products, int32_t block,
                      int64_t first, int64_t positions, float* sums, int64_t begin, int64_t end);

  // The same in fixed point, where the instruction set has fast look-ups, else null; all give the same sums.
  // One token by its digits: tables take 768 bytes per position and codebook; products times `inverse` must
  // be below VectorDigitSums::kHalf.
  void (*vector_digit_tables)(const Codebooks& codebooks, const float* x, float inverse, int64_t begin,
                              int64_t end, uint8_t* tables);
  void (*vector_digit_sums)(const lowbit_codebook_vector& weight, const uint8_t* tables, int64_t first,
                            int64_t positions, const VectorDigitSums& sums, int64_t begin, int64_t end);
  // Blocks of `lanes` tokens, each with its own inverse; sums wrap.
  void (*vector_integer_products)(const Codebooks& codebooks, const float* x, const float* inverses,
                                  int64_t begin, int64_t end, int32_t* products);
  void (*vector_integer_sums)(const lowbit_codebook_vector& weight, const int32_t* products, int64_t first,
                              int64_t positions, int32_t* sums, int64_t begin, int64_t end);

  // y[i] = sums[i] * scales[i] + bias[i], null tables left out, cast once.
  void (*finish)(const float* sums, const void* scales, lowbit_dtype scales_dtype, const void* bias,
                 lowbit_dtype bias_dtype, void* y, lowbit_dtype y_dtype, int64_t n);
};

// Table of one instruction set. The caller has checked that this machine can run it.
const CodebookKernels& codebook_kernels(lowbit_isa isa);

}  // namespace lowbit
