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

// Visits the runs in ascending order. Group indices are counted, not divided for: a run of 128 inputs is
// shorter than a few integer divisions.
class Runs {
 public:
  LOWBIT_INLINE Runs(int64_t k_blocks, int64_t x_group, int64_t w_group, int64_t max_blocks)
      : k_blocks_(k_blocks),
        x_group_(x_group),
        w_group_(w_group),
        max_blocks_(max_blocks),
        x_end_(x_group),
        w_end_(w_group) {
    limit();
  }

  LOWBIT_INLINE bool done() const { return begin_ >= k_blocks_; }
  LOWBIT_INLINE int64_t begin() const { return begin_; }  // blocks
  LOWBIT_INLINE int64_t end() const { return end_; }
  LOWBIT_INLINE int64_t x_index() const { return x_index_; }  // of the activation scale
  LOWBIT_INLINE int64_t w_index() const { return w_index_; }  // of the weight scale

  LOWBIT_INLINE void next() {
    begin_ = end_;
    if (begin_ == x_end_) {
      ++x_index_;
      x_end_ += x_group_;
    }
    if (begin_ == w_end_) {
      ++w_index_;
      w_end_ += w_group_;
    }
    limit();
  }

 private:
  LOWBIT_INLINE void limit() {
    end_ = smaller(smaller(k_blocks_, begin_ + max_blocks_), smaller(x_end_, w_end_));
  }

  int64_t k_blocks_, x_group_, w_group_, max_blocks_;
  int64_t x_end_, w_end_;
  int64_t begin_ = 0, end_ = 0, x_index_ = 0, w_index_ = 0;
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
