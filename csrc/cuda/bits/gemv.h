// Which instantiation of the GEMV a product takes, and how it goes over the device.
#pragma once

#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {

using GemvKernel = void (*)(GemvParams);

// Kernels for `column_tiles` tiles of eight columns: one or two. Null where two would not fit the registers.
GemvKernel whole_kernel(Form form, int column_tiles);
GemvKernel kernel_by_128(Form form, int column_tiles);  // and for whole rows with activation scales by 128
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
