// What the operators on bit tiles (signs, planes) share: the checks of the tiled tensors.
#pragma once

#include "torch/tensor.h"

namespace lowbit::torch_ops {

// Checks tiles [T, planes, ceil(K / 32), 64, 4] and, where present, scales and offsets [T, G, 64].
// The result describes all T tiles as one weight of 64 T rows.
lowbit_bits check_bits(const Checker& check, const Tensor& tiles, const Tensor& scales, const Tensor& offsets,
                       int64_t num_tiles, int64_t planes, int64_t in_features, int64_t group_size);

}  // namespace lowbit::torch_ops
