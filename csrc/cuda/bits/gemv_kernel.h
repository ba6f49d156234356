// The GEMV kernels: blocks of row_warps x input_warps warps, one or two row tiles and up to two tiles of
// eight columns each; `splits` blocks share rows and divide their inputs (cuda/bits/gemv_block.h).
#pragma once

#include <type_traits>

#include "cuda/bits/epilogue.h"
#include "cuda/bits/gemv_sums.h"
#include "cuda/bits/meeting.h"

namespace lowbit::cuda {

// Holds the sum of a token's columns over a row: of one-bit digits 65,536 inputs times 32,639 fit 32 bits.
template <Form kForm>
using WholeSum = std::conditional_t<kForm == Form::one, int32_t, int64_t>;

// Blocks that a multiprocessor must hold at least, by what keeps the compiler from spilling on some target:
// told one, it fits 255 registers to a thread; told nothing (0), it may spill for the sake of another block,
// or not.
constexpr int min_blocks_whole(Form form, int column_tiles) {
  return column_tiles == 2 && form != Form::two && form != Form::mixed ? 1 : 0;
}
constexpr int min_blocks_grouped(Form form, int column_tiles, bool by_steps) {
  const bool one_pass = form == Form::one || (form == Form::four && !by_steps);
  return form == Form::two || (column_tiles == 1 && one_pass) ? 1 : 0;
}
constexpr int min_blocks_by_row(Form form) {
  return form != Form::mixed && form != Form::planes ? 1 : 0;
}
constexpr int min_blocks_pairs(Form form, int column_tiles) {
  return form != Form::four || column_tiles == 1 ? 1 : 0;
}

template <Form kForm, int kColumnTiles>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks_whole(kForm, kColumnTiles))
    gemv_whole(const GemvParams p) {
  constexpr int kRowTiles = row_tiles_of_warp(kForm, true);
  constexpr int kColumns = 8 * kColumnTiles;
  using Meeting = MeetingPoint<kRowTiles, kColumnTiles>;
  LOWBIT_DYNAMIC_SHARED(char, shared);
  int sums[kRowTiles][kColumnTiles][4] = {};
  whole_sums<kForm>(BlockTask(p, kRowTiles, kColumns), p.x, shared, sums);
  wait_for_previous_kernel();
  const BlockTask task(p, kRowTiles, kColumns);
  int* const met = reinterpret_cast<int*>(shared);
  Meeting::leave(sums, met);
  release_next_kernel();
  const int per_token = p.x.per_token;
  const int first_token = task.warp.first_column / per_token;
  const BlockResults results{p.partition.row_warps * Meeting::kWarpRows, kColumns / per_token,
                             task.segment.rows - task.first_row(), p.x.tokens - first_token};
  finish_together<WholeSum<kForm>>(
      p.x, p.partition, task.split, task.block, results,
      [&](int row, int token) {
        return Meeting::total(met, p.partition.input_warps, row, [&](const auto& sum) -> WholeSum<kForm> {
          return per_token == 2 ? WholeSum<kForm>{256} * sum(2 * token) + sum(2 * token + 1) : sum(token);
        });
      },
      [&](int row, int token, int64_t sum) {
        finish_whole(p.layer, task.segment, p.x, task.first_row() + row, first_token + token, sum);
      });
}

// What blocks of the grouped GEMVs do: sum_up(task, sums) for their own inputs, then what they do together.
template <int kColumnTiles, Flush kFlush, bool kPairs, class SumUp>
LOWBIT_DEVICE void grouped_block(const GemvParams& p, const SumUp& sum_up) {
  constexpr int kColumns = 8 * kColumnTiles;
  using Meeting = MeetingPoint<1, kColumnTiles>;
  LOWBIT_DYNAMIC_SHARED(char, shared);
  float sums[1][kColumnTiles][4] = {};
  sum_up(BlockTask(p, 1, kColumns).warp, sums[0]);
  wait_for_previous_kernel();
  const BlockTask task(p, 1, kColumns);
  if constexpr (has_units(kFlush)) {
    add_offsets<kColumnTiles, kFlush, kPairs>(task.warp, p.x, p.offset_factor, sums[0]);
  }
  float* const met = reinterpret_cast<float*>(shared);
  Meeting::leave(sums, met);
  release_next_kernel();
  const int per_token = p.x.per_token;
  const int first_token = task.warp.first_column / per_token;
  const BlockResults results{p.partition.row_warps * Meeting::kWarpRows, kColumns / per_token,
                             task.segment.rows - task.first_row(), p.x.tokens - first_token};
  finish_together<float>(
      p.x, p.partition, task.split, task.block, results,
      [&](int row, int token) {
        return Meeting::total(met, p.partition.input_warps, row, [&](const auto& sum) {
          return per_token == 2 ? fmaf(256.0f, sum(2 * token), sum(2 * token + 1)) : sum(token);
        });
      },
      [&](int row, int token, float sum) {
        finish_grouped(p.layer, task.segment, p.x, p.offset_factor, task.first_row() + row,
                       first_token + token, sum);
      });
}

template <Form kForm, int kColumnTiles, bool kBySteps>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks_grouped(kForm, kColumnTiles, kBySteps))
    gemv_grouped(const GemvParams p) {
  constexpr Flush kFlush = kBySteps ? Flush::by_32 : Flush::by_128;
  grouped_block<kColumnTiles, kFlush, false>(p, [&](const WarpTask& task, float (&sums)[kColumnTiles][4]) {
    grouped_sums<kForm, kColumnTiles, kFlush>(task, p.x, sums);
  });
}

// Scales of the activations by 128, none of the weight inside a row. A kernel of its own: one with the loops
// of the others has their registers, and fewer warps to a multiprocessor.
template <Form kForm, int kColumnTiles>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks_by_row(kForm)) gemv_by_row(const GemvParams p) {
  grouped_block<kColumnTiles, Flush::row, false>(
      p, [&](const WarpTask& task, float (&sums)[kColumnTiles][4]) {
        grouped_sums<kForm, kColumnTiles, Flush::row, void>(task, p.x, sums);
      });
}

// Scales by 128 and tokens of two columns.
template <Form kForm, int kColumnTiles>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks_pairs(kForm, kColumnTiles))
    gemv_pairs(const GemvParams p) {
  constexpr Flush kFlush = Flush::by_128;
  grouped_block<kColumnTiles, kFlush, true>(p, [&](const WarpTask& task, float (&sums)[kColumnTiles][4]) {
    grouped_sums<kForm, kColumnTiles, kFlush, true>(task, p.x, sums);
  });
}

}  // namespace lowbit::cuda
