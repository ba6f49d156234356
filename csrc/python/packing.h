// Packing of weights on NumPy arrays, between the canonical rows of a checkpoint and the tiles of the
// kernels.
#pragma once

#include "python/arrays.h"

namespace lowbit::python {

// bool or float32 [N, K] -> uint8 [N, ceil(K / 8)]; bit 1 for True or a weight >= 0. NaN raises
// ValueRangeError.
py::array_t<uint8_t> pack_signs(const py::array& values);
// uint8 [N, ceil(K / 8)] -> int8 [N, K] of -1 and +1. Non-zero padding raises FormatError.
py::array_t<int8_t> unpack_signs(const py::array& packed, int64_t in_features);
// uint8 [N, ceil(K / 8)] or [B, N, ceil(K / 8)] -> uint8 [ceil(N / 64), B, ceil(K / 32), 64, 4].
py::array_t<uint8_t> tile_bits(const py::array& packed, int64_t in_features);
// [N, G] -> [ceil(N / 64), G, 64] of the same dtype (float32, float16 or int16), padding rows 0.
py::array tile_scales(const py::array& scales);

}  // namespace lowbit::python
