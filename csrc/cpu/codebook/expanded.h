// The product for many tokens: some rows become fp32 in a cache and meet a block of tokens as a dense matrix.
#pragma once

#include "cpu/codebook/panels.h"

namespace lowbit::codebook {

// y = (x expandedᵀ) * scales + bias for call.x.cols inputs; null scales are left out. `x_scales`: those that
// pieces of the tokens of a block take, which `load` writes (see Panels); null: none. Fails only when memory
// is short.
lowbit_status expanded_linear(const Call& call, LoadToken load, ExpandRows expand, const void* scales,
                              lowbit_dtype scales_dtype, const float* x_scales = nullptr);

}  // namespace lowbit::codebook
