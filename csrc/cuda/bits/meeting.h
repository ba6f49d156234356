// Where partial sums of the same rows meet: those of a block's input warps in shared memory, those of blocks
// that share rows in device memory.
//
// IN WHICH ORDER. A sum has the same bits however its parts go to warps and blocks:
//
//   12 parts   0   1   2   3   4   5   6   7   8   9  10  11
//   in pairs   '-+-'   '-+-'   '-+-'   '-+-'   '-+-'   '-+-'     what a block of two input warps adds
//                '---+---'       '---+---'       '---+---'       and of four
//   in order         '-------+-------'               |
//                            '-----------+-----------'
//
// in pairs as far as their number is even, kMaxWarps parts at most; what is left in ascending order.
#pragma once

#include "cuda/bits/params.h"

namespace lowbit::cuda {

// The sum of `count` parts from `first` on, in pairs: a power of two, kMost at most.
template <int kMost = kMaxWarps, class Part>
LOWBIT_DEVICE auto add_in_pairs(const Part& part, int first, int count) {
  if constexpr (kMost > 1) {
    if (count > 1) {
      const int half = count / 2;
      return add_in_pairs<kMost / 2>(part, first, half) + add_in_pairs<kMost / 2>(part, first + half, half);
    }
  }
  return part(first);
}

// Blocks whose sums are added in pairs, before what that gives is added in ascending order.
LOWBIT_DEVICE int splits_in_pairs(const Partition& partition) {
  const int parts = partition.parts();
  return min(parts & -parts, kMaxWarps) / partition.input_warps;
}

// Sums of a block in shared memory: by warp, row tile of the warp, tile of columns, register and lane.
template <int kRowTiles, int kColumnTiles>
struct MeetingPoint {
  static constexpr int kWarpRows = kRowTiles * kRowTile;
  static constexpr int kWarpSums = kRowTiles * kColumnTiles * kTileSums;

  static LOWBIT_DEVICE int index(int warp, int row, int column) {
    const int tile = (warp * kRowTiles + row / kRowTile) * kColumnTiles + (column >> 3);
    const int register_index = (row >> 3 & 1) * 2 + (column & 1);
    const int lane = (row & 7) * 4 + ((column & 7) >> 1);
    return tile * kTileSums + register_index * 32 + lane;
  }

  template <class T>
  static LOWBIT_DEVICE void leave(const T (&sums)[kRowTiles][kColumnTiles][4], T* shared) {
    T* const own = shared + threadIdx.x / 32 * kWarpSums + (threadIdx.x & 31);
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) own[((r * kColumnTiles + c) * 4 + i) * 32] = sums[r][c][i];
      }
    }
    __syncthreads();
  }

  // Over the input warps, of value(sums) where sums(column) are those of a warp. `row` counts from the
  // block's first.
  template <class T, class Value>
  static LOWBIT_DEVICE auto total(const T* shared, int input_warps, int row, const Value& value) {
    const int first = row / kWarpRows * input_warps;
    const auto part = [&](int warp) {
      return value([&](int column) { return shared[index(warp, row % kWarpRows, column)]; });
    };
    return add_in_pairs(part, first, input_warps);
  }
};

// The results of a block that exist.
struct BlockResults {
  int rows, tokens;     // that it has room for
  int rows_left;        // of the segment, from the block's first row on
  int64_t tokens_left;  // of x, the same way

  // each(row of the block, token of the block), rows next to each other in neighbouring threads.
  template <class Each>
  LOWBIT_DEVICE void for_each(const Each& each) const {
    for (int i = threadIdx.x; i < rows * tokens; i += blockDim.x) {
      if (i % rows < rows_left && i / rows < tokens_left) each(i % rows, i / rows);
    }
  }
};

// Blocks that share rows: each has left its sums in device memory when it calls this; the last one to come
// sees them all and gets true. `arrivals` is 0 before the first comes: the prologue sees to it.
LOWBIT_DEVICE bool is_last_to_arrive(uint32_t* arrivals, int blocks) {
  LOWBIT_SHARED(uint32_t, before, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before[0] = atomicAdd(arrivals, 1u);
  __syncthreads();
  __threadfence();
  return before[0] == static_cast<uint32_t>(blocks - 1);
}

// finish(row, token, sum) for all results, where own(row, token) is this block's share of a sum of type Sum
// and `split` its place among the blocks that share rows, those of `group`.
template <class Sum, class Own, class Finish>
LOWBIT_DEVICE void finish_together(const Columns& x, const Partition& partition, int split, int64_t group,
                                   const BlockResults& results, const Own& own, const Finish& finish) {
  const int splits = partition.splits;
  if (splits == 1) {
    results.for_each([&](int row, int token) { finish(row, token, own(row, token)); });
    return;
  }
  const int size = results.rows * results.tokens;
  Sum* const all = static_cast<Sum*>(x.partial_sums) + group * splits * size;
  results.for_each(
      [&](int row, int token) { all[split * size + token * results.rows + row] = own(row, token); });
  if (!is_last_to_arrive(x.arrivals + group, splits)) return;
  results.for_each([&](int row, int token) {
    const Sum* const parts = all + token * results.rows + row;
    const auto part = [&](int s) { return __ldcg(parts + s * size); };
    const int in_pairs = splits_in_pairs(partition);
    Sum sum = add_in_pairs(part, 0, in_pairs);
    for (int s = in_pairs; s < splits; s += in_pairs) sum += add_in_pairs(part, s, in_pairs);
    finish(row, token, sum);
  });
}

}  // namespace lowbit::cuda
