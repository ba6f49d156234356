// Bit tiles of the GPU kernels as tensors, for the operators of signs and planes.
//
//   tiles    uint8 [bits][digits][L][16]  what lowbit_cuda_repack_bits wrote, in 16-byte words; the first two
//   sizes
//            say how the codes are cut (one-bit digits, or as few as there are) and L rounds the bytes up to
//            fit
//   scales   [16 ceil(N / 16)][units]     and offsets, int16, of the same shape
//
// Segments lie one behind the other: along L, and along the rows of scales.
#pragma once

#include "lowbit_cuda.h"
#include "torch/cuda/packed.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

inline constexpr int64_t kRowTile = 16;

// Sizes of the tensors of one weight.
struct BitsShape {
  int64_t words;  // L
  int64_t rows;   // of scales and offsets
  int64_t units;
};

// Codes of `bits` bits cut into as few digits as there are, or into `bits` of one bit each.
lowbit_cuda_bits describe_bits(int64_t out_features, int64_t in_features, int64_t bits, bool one_bit_digits,
                               int64_t group_size);
BitsShape shape_of(const Checker& check, const lowbit_cuda_bits& bits);

// The description that a tensor of tiles carries in its shape; no pointers yet.
lowbit_cuda_bits describe_tiles(const Checker& check, const Tensor& tiles, int64_t out_features,
                                int64_t in_features, int64_t group_size);

}  // namespace lowbit::torch_ops
