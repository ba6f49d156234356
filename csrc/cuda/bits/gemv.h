// What the GEMV kernels take, which of them a product takes, and how it goes over the device.
#pragma once

#include "cuda/bits/params.h"

namespace lowbit::cuda {

// One-bit digits that a pass puts together (cuda/bits/planes.h).
inline constexpr int kChunkPlanes = 4;

struct GemvParams {
  LayerParams layer;
  Columns x;
  Partition partition;
  int32_t column_passes;  // of 8 or 16 columns: blocks side by side, so that the second reads weights from L2
  float offset_factor;    // of an offset times a sum of the activations, before the factor A
};

// Row tiles of a warp: with two of them a load of columns serves two products. Where digits leave the
// integers inside a row, or are more than one bit wide, it is not these loads that count.
LOWBIT_HOST_DEVICE constexpr int row_tiles_of_warp(Form form, bool whole) {
  return whole && form == Form::one ? 2 : 1;
}

// Bytes of one chunk of columns in shared memory (cuda/bits/chunks.h), which has an even number of them, and
// of all that a block needs.
LOWBIT_HOST_DEVICE constexpr int chunk_bytes(int columns, int input_warps) {
  return (columns + 1) / 2 * 2 * input_warps * kSpanInputs;
}
LOWBIT_HOST_DEVICE constexpr int chunks_bytes(int columns, int input_warps, int turns) {
  return (turns > 1 ? 2 : 1) * chunk_bytes(columns, input_warps);
}

using GemvKernel = void (*)(GemvParams);

// Kernels for `column_tiles` tiles of eight columns: one or two. Null where two would not fit the registers.
GemvKernel whole_kernel(Form form, int column_tiles);
GemvKernel kernel_by_row(Form form, int column_tiles);  // the activations have scales by 128, rows one
GemvKernel kernel_by_128(Form form, int column_tiles);
GemvKernel kernel_by_128_pairs(Form form, int column_tiles);  // for two columns to a token; null: the above
GemvKernel kernel_by_32(Form form, int column_tiles);

// The launch for `tokens` tokens of `per_token` columns each; `grouped` as is_grouped() says.
struct GemvShape {
  GemvKernel kernel;
  int32_t column_tiles;   // of a pass
  int32_t passes;         // over the weight
  int32_t row_tiles;      // of a block
  int64_t groups;         // of blocks that share rows and columns: partition.splits each
  int64_t shared_bytes;   // of a block
  int64_t partial_bytes;  // of all blocks together, where splits share rows
};
GemvShape gemv_shape(const Layer& layer, bool grouped, int32_t per_token, int64_t tokens,
                     const Partition& partition);

}  // namespace lowbit::cuda
