// Scalar codebooks: a table for each row. Repacking at load, and the products in their two forms.
//
//   selectors  2 to 4 bits, `fast` and `high`: look-ups by PRMT, integer tensor-core products
//   (scalar_selectors.cu) floats     everything else: look-ups in shared memory, fp32 sums (scalar_floats.cu)
//
// Both read the tiles of codebook/tables.h. Outliers are summed first, per token and row (outliers.cu).
#pragma once

#include "cuda/activations/columns.h"
#include "cuda/bits/bits.h"
#include "cuda/launch.h"
#include "lowbit.h"

namespace lowbit::cuda::codebook {

struct Plan;  // cuda/plan/codebook.h

// One layer on the device.
struct ScalarWeight {
  int64_t out_features, in_features;
  int32_t bits;
  const uint4* tiles;
  const int8_t* digits;     // 2 to 4 bits
  const float* row_scales;  // 2 to 4 bits: [16 ceil(N / 16)]
  const void* tables;       // [N][2^bits]
  lowbit_dtype tables_dtype;
  const int32_t* outlier_offsets;  // null: no outliers
  const int32_t* outlier_columns;
  const void* outlier_values;
  lowbit_dtype outlier_values_dtype;
};

// What multiplies the weights: columns, or floats (then columns are unused).
struct Activations {
  Columns columns;
  const float* values;  // [tokens][values_stride], 0 beyond in_features; null: columns
  int64_t values_stride;
};

struct ScalarProduct {
  ScalarWeight weight;
  Activations x;
  int64_t tokens;
  const float* outlier_sums;  // [tokens][N]; null: none
  Result result;
};

// Bytes of tiles and digits, and values of row_scales, of a layer.
int64_t scalar_tiles_bytes(int64_t out_features, int64_t in_features, int32_t bits);
int64_t scalar_digits_bytes(int64_t out_features, int32_t bits);
int64_t scalar_row_scales_size(int64_t out_features, int32_t bits);

// Canonical planes and tables into the above; digits and row_scales are used with 2 to 4 bits only.
struct ScalarRepack {
  int64_t out_features, in_features;
  int32_t bits;
  const uint8_t* planes;  // [bits][N][ceil(K / 8)]
  const void* tables;
  lowbit_dtype tables_dtype;
  uint4* tiles;
  int8_t* digits;
  float* row_scales;
};
void repack_scalar(const ScalarRepack& repack, Stream stream);
// The canonical planes back from the tiles.
void restore_scalar(const ScalarWeight& weight, uint8_t* planes, Stream stream);

// The products. All expect the staged activations of the previous launches in the stream.
void product_selectors(const ScalarProduct& product, const Plan& plan, Stream stream);
void product_floats(const ScalarProduct& product, const Plan& plan, Stream stream);
// sums [tokens][N]
void sum_outliers(const ScalarWeight& weight, const Activations& x, int64_t tokens, float* sums,
                  Stream stream);

}  // namespace lowbit::cuda::codebook
