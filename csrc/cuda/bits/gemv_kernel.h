// The GEMV kernel: blocks of row_warps x input_warps warps, one row tile and up to two tiles of eight columns
// each.
//
//              input warp 0   1   ...
//   row warp 0   tile T       T          spans w, w + input_warps, ... each
//   row warp 1   tile T + 1   T + 1
//
// The partial sums of a tile meet in shared memory, in ascending order of the input warps.
#pragma once

#include "cuda/bits/epilogue.h"
#include "cuda/bits/planes.h"

namespace lowbit::cuda {

inline constexpr int kMaxWarps = 8;
inline constexpr int kTileSums = 128;  // of a row tile and a tile of eight columns

struct GemvParams {
  LayerParams layer;
  Columns x;
  int32_t row_warps;
  int32_t input_warps;
  int32_t column_passes;  // of 8 or 16 columns: blocks side by side, so that the second reads weights from L2
  float offset_factor;    // of an offset times a sum of the activations, before the factor A
};

// Grouped sums of scale * offset * (sum of the activations), in the column of a token that counts once.
template <int kColumnTiles, Flush kFlush, class T>
LOWBIT_DEVICE void add_offsets(const WarpTask& task, const Columns& x, float factor,
                               float (&y)[kColumnTiles][4]) {
  constexpr int kUnits = units_per_field(kFlush);
  RowScales<kFlush, T> rows(task.layer, task.segment, task.tile, task.lane);
  ColumnScales<kColumnTiles, kFlush> columns(x, task.segment.set, task.first_column, task.lane);
  FieldValues<int16_t, kUnits> offsets[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = int64_t{kRowTile} * task.tile + (task.lane >> 2) + 8 * i;
    offsets[i] = FieldValues<int16_t, kUnits>(task.segment.offsets + row * task.layer.units);
  }
  const float factors[2] = {x.per_token == 2 ? 0.0f : factor, factor};
#pragma unroll 1
  for (int span = task.spans.first; span < task.spans.end; span += task.spans.step) {
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      rows.visit(span, field);
      columns.visit(span, field);
      offsets[0].visit(span, field);
      offsets[1].visit(span, field);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float scaled = rows.rows[r].at(field, u) * offsets[r].at(field, u);
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const float sum = columns.sums[c][i].at(field, u) * factors[i];
              y[c][2 * r + i] = fmaf(scaled, sum, y[c][2 * r + i]);
            }
          }
        }
      }
    }
  }
}

template <Form kForm, int kColumnTiles>
LOWBIT_DEVICE void whole_sums(const WarpTask& task, const Columns& x, int (&sums)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if constexpr (kForm == Form::one) {
    whole_pass<1>(task, x, layer.passes[0], sums);
  } else if constexpr (kForm == Form::two) {
    whole_pass<2>(task, x, layer.passes[0], sums);
  } else if constexpr (kForm == Form::four) {
    whole_pass<4>(task, x, layer.passes[0], sums);
  } else {
    for (int i = 0; i < layer.num_passes; ++i) {
      const Pass& pass = layer.passes[i];
      if constexpr (kForm == Form::planes) {
        whole_planes_pass(task, x, pass, sums);
      } else if (pass.width == 4) {
        whole_pass<4>(task, x, pass, sums);
      } else if (pass.width == 2) {
        whole_pass<2>(task, x, pass, sums);
      } else {
        whole_pass<1>(task, x, pass, sums);
      }
    }
  }
}

template <Form kForm, int kColumnTiles, Flush kFlush, class T>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float offset_factor,
                                float (&y)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if constexpr (kForm == Form::one) {
    grouped_pass<1, kColumnTiles, kFlush, T, false>(task, x, layer.passes[0], y);
  } else if constexpr (kForm == Form::two) {
    grouped_pass<2, kColumnTiles, kFlush, T, false>(task, x, layer.passes[0], y);
  } else if constexpr (kForm == Form::four) {
    grouped_pass<4, kColumnTiles, kFlush, T, false>(task, x, layer.passes[0], y);
  } else {
    for (int i = 0; i < layer.num_passes; ++i) {
      const Pass& pass = layer.passes[i];
      const float weight = static_cast<float>(1 << pass.bits);
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) y[c][j] *= weight;
      }
      if constexpr (kForm == Form::planes) {
        grouped_planes_pass<kColumnTiles, kFlush, T>(task, x, pass, y);
      } else if (pass.width == 4) {
        grouped_pass<4, kColumnTiles, kFlush, T, true>(task, x, pass, y);
      } else if (pass.width == 2) {
        grouped_pass<2, kColumnTiles, kFlush, T, true>(task, x, pass, y);
      } else {
        grouped_pass<1, kColumnTiles, kFlush, T, true>(task, x, pass, y);
      }
    }
  }
  if constexpr (has_units(kFlush)) {
    if (task.segment.offsets != nullptr) add_offsets<kColumnTiles, kFlush, T>(task, x, offset_factor, y);
  }
}

// The loop for the dtype of the scales.
template <Form kForm, int kColumnTiles, Flush kFlush>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float offset_factor,
                                float (&y)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if (layer.scales_dtype == LOWBIT_F16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __half>(task, x, offset_factor, y);
  } else if (layer.scales_dtype == LOWBIT_BF16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __nv_bfloat16>(task, x, offset_factor, y);
  } else {
    grouped_sums<kForm, kColumnTiles, kFlush, float>(task, x, offset_factor, y);
  }
}

// Where the sums of a tile meet: a row per warp, then tile of columns, register and lane.
template <int kColumnTiles>
struct MeetingPoint {
  static LOWBIT_DEVICE int index(int warp, int row, int column) {
    const int register_index = (row >> 3) * 2 + (column & 1);
    const int lane = (row & 7) * 4 + ((column & 7) >> 1);
    return (warp * kColumnTiles + (column >> 3)) * kTileSums + register_index * 32 + lane;
  }

  template <class T>
  static LOWBIT_DEVICE void leave(const T (&sums)[kColumnTiles][4], T* shared) {
    T* const own = shared + threadIdx.x / 32 * (kColumnTiles * kTileSums) + (threadIdx.x & 31);
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) own[c * kTileSums + i * 32] = sums[c][i];
    }
    __syncthreads();
  }

  // Over the input warps, in ascending order. `row` counts from the block's first.
  template <class T>
  static LOWBIT_DEVICE T total(const T* shared, int input_warps, int row, int column) {
    const int warp = row / kRowTile * input_warps;
    T sum = shared[index(warp, row % kRowTile, column)];
    for (int w = 1; w < input_warps; ++w) sum += shared[index(warp + w, row % kRowTile, column)];
    return sum;
  }
};

// finish(row of the block, token of the block) for those that exist, rows next to each other in neighbouring
// threads.
template <class Finish>
LOWBIT_DEVICE void for_each_result(int rows, int rows_left, int tokens, int64_t tokens_left,
                                   const Finish& finish) {
  for (int i = threadIdx.x; i < rows * tokens; i += blockDim.x) {
    if (i % rows < rows_left && i / rows < tokens_left) finish(i % rows, i / rows);
  }
}

struct BlockTask {
  const SegmentParams& segment;
  int first_tile;
  WarpTask warp;

  LOWBIT_DEVICE BlockTask(const GemvParams& p, int columns)
      : segment(p.layer.segments[segment_of(p.layer, blockIdx.x / p.column_passes)]),
        first_tile((static_cast<int>(blockIdx.x) / p.column_passes - segment.first_block) * p.row_warps),
        warp{p.layer,
             segment,
             0,
             static_cast<int>(blockIdx.x) % p.column_passes * columns,
             static_cast<int>(threadIdx.x & 31),
             {0, p.input_warps, p.layer.spans}} {
    const int index = threadIdx.x / 32;
    // Warps of tiles behind the last one compute it once more; it is finished by the warps it belongs to.
    warp.tile = min(first_tile + index / p.input_warps, tiles_of(segment) - 1);
    warp.spans.first = index % p.input_warps;
  }
};

// Blocks that a multiprocessor must hold at least, where the compiler's own choice (0) is to spill a few
// registers for the sake of another block on some target.
constexpr int min_blocks(Form form, int column_tiles, bool whole, bool by_steps) {
  if (whole) return column_tiles == 2 && form != Form::two && form != Form::mixed ? 1 : 0;
  return by_steps && form == Form::two ? 1 : 0;
}

template <Form kForm, int kColumnTiles>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks(kForm, kColumnTiles, true, false))
    gemv_whole(const GemvParams p) {
  using Meeting = MeetingPoint<kColumnTiles>;
  constexpr int kColumns = 8 * kColumnTiles;
  LOWBIT_SHARED(int, shared, kMaxWarps * kColumnTiles * kTileSums);
  const BlockTask task(p, kColumns);
  int sums[kColumnTiles][4] = {};
  whole_sums<kForm>(task.warp, p.x, sums);
  wait_for_previous_kernel();
  Meeting::leave(sums, shared);
  release_next_kernel();
  const int first_row = task.first_tile * kRowTile;
  const int first_token = task.warp.first_column / p.x.per_token;
  for_each_result(p.row_warps * kRowTile, task.segment.rows - first_row, kColumns / p.x.per_token,
                  p.x.tokens - first_token, [&](int row, int token) {
                    const int column = token * p.x.per_token;
                    const int low =
                        p.x.per_token == 2 ? Meeting::total(shared, p.input_warps, row, column + 1) : 0;
                    finish_whole(p.layer, task.segment, p.x, first_row + row, first_token + token,
                                 Meeting::total(shared, p.input_warps, row, column), low);
                  });
}

template <Form kForm, int kColumnTiles, bool kBySteps>
__global__ void __launch_bounds__(kMaxWarps * 32, min_blocks(kForm, kColumnTiles, false, kBySteps))
    gemv_grouped(const GemvParams p) {
  using Meeting = MeetingPoint<kColumnTiles>;
  constexpr int kColumns = 8 * kColumnTiles;
  LOWBIT_SHARED(float, shared, kMaxWarps * kColumnTiles * kTileSums);
  const BlockTask task(p, kColumns);
  float sums[kColumnTiles][4] = {};
  if constexpr (kBySteps) {
    grouped_sums<kForm, kColumnTiles, Flush::by_32>(task.warp, p.x, p.offset_factor, sums);
  } else if (p.layer.unit_inputs == 0) {
    grouped_sums<kForm, kColumnTiles, Flush::row, void>(task.warp, p.x, p.offset_factor, sums);
  } else {
    grouped_sums<kForm, kColumnTiles, Flush::by_128>(task.warp, p.x, p.offset_factor, sums);
  }
  wait_for_previous_kernel();
  Meeting::leave(sums, shared);
  release_next_kernel();
  const int first_row = task.first_tile * kRowTile;
  const int first_token = task.warp.first_column / p.x.per_token;
  for_each_result(
      p.row_warps * kRowTile, task.segment.rows - first_row, kColumns / p.x.per_token,
      p.x.tokens - first_token, [&](int row, int token) {
        const int column = token * p.x.per_token;
        const float low = p.x.per_token == 2 ? Meeting::total(shared, p.input_warps, row, column + 1) : 0.0f;
        finish_grouped(p.layer, task.segment, p.x, p.offset_factor, first_row + row, first_token + token,
                       Meeting::total(shared, p.input_warps, row, column), low);
      });
}

}  // namespace lowbit::cuda
