// How the inputs are cut into runs.
//
// A run is a range of blocks on which the scale of the activations and the scale of the weights are constant,
// short enough for int32 sums. Inside a run everything is exact integer arithmetic; floats are added run by
// run in ascending order. The cuts depend on the formats only, never on the number of tokens, threads or
// registers, and that is why a row's result does not either.
#pragma once

#include <cstdint>

#include "cpu/isa/inline.h"
#include "lowbit.h"

namespace lowbit {
namespace {

constexpr int64_t kTileRows = LOWBIT_TILE_ROWS;
constexpr int64_t kBlockInputs = LOWBIT_BLOCK_INPUTS;
constexpr int64_t kBlockBytes = kTileRows * 4;  // one plane of one block of a tile

LOWBIT_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

struct Runs {
  int64_t k_blocks;
  int64_t x_group;     // blocks per activation scale
  int64_t w_group;     // blocks per weight scale
  int64_t max_blocks;  // of a run

  LOWBIT_INLINE int64_t end(int64_t begin) const {
    const int64_t x_end = (begin / x_group + 1) * x_group;
    const int64_t w_end = (begin / w_group + 1) * w_group;
    return smaller(smaller(k_blocks, begin + max_blocks), smaller(x_end, w_end));
  }
};

LOWBIT_INLINE int64_t blocks_of(int64_t inputs) {
  return (inputs + kBlockInputs - 1) / kBlockInputs;
}

LOWBIT_INLINE int64_t weight_groups(const lowbit_bits& weight) {
  return weight.group_size < 0 ? 1 : (weight.in_features + weight.group_size - 1) / weight.group_size;
}

LOWBIT_INLINE int64_t weight_group_blocks(const lowbit_bits& weight) {
  return weight.group_size < 0 ? blocks_of(weight.in_features) : weight.group_size / kBlockInputs;
}

// Longest run, a multiple of 128 inputs and at most 32768, with run * max_code * (2^planes - 1) < 2^31.
LOWBIT_INLINE int64_t max_run_blocks(int32_t max_code, int planes) {
  const int64_t term = static_cast<int64_t>(max_code) * ((int64_t{1} << planes) - 1);
  return smaller(INT32_MAX / term / 128 * 128, 32768) / kBlockInputs;
}

}  // namespace
}  // namespace lowbit
