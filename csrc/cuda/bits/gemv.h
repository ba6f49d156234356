// Which instantiation of the GEMV a product takes.
#pragma once

#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {

using GemvKernel = void (*)(GemvParams);

// Kernels for `column_tiles` tiles of eight columns: one or two. Null where two would not fit the registers.
GemvKernel whole_kernel(Form form, int column_tiles);
GemvKernel kernel_by_128(Form form, int column_tiles);  // and for whole rows with activation scales by 128
GemvKernel kernel_by_32(Form form, int column_tiles);

}  // namespace lowbit::cuda
