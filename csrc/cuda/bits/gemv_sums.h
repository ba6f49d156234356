// The sums of one warp: the loops that a layer's form wants, one after the other.
#pragma once

#include "cuda/bits/gemv_block.h"
#include "cuda/bits/planes.h"

namespace lowbit::cuda {

template <Form kForm, int kRowTiles, int kColumnTiles>
LOWBIT_DEVICE void whole_sums(const BlockTask& block, const Columns& x, char* shared,
                              int (&sums)[kRowTiles][kColumnTiles][4]) {
  const WarpTask& task = block.warp;
  const LayerParams& layer = task.layer;
  if constexpr (kForm == Form::one) {
    ChunkColumns<kColumnTiles> codes({task, x, block.place, block.turns, shared}, task.lane);
    whole_pass<1>(task, codes, layer.passes[0], sums);
    __syncthreads();  // the last chunk has been read, its place is free
  } else if constexpr (kForm == Form::two) {
    cached_pass<2>(task, x, layer.passes[0], sums);
  } else if constexpr (kForm == Form::four) {
    cached_pass<4>(task, x, layer.passes[0], sums);
  } else {
    for (int i = 0; i < layer.num_passes; ++i) {
      const Pass& pass = layer.passes[i];
      if constexpr (kForm == Form::planes) {
        whole_planes_pass(task, x, pass, sums[0]);
      } else if (pass.width == 4) {
        cached_pass<4>(task, x, pass, sums);
      } else if (pass.width == 2) {
        cached_pass<2>(task, x, pass, sums);
      } else {
        cached_pass<1>(task, x, pass, sums);
      }
    }
  }
}

// Grouped sums of scale * offset * (sum of the activations), in the column of a token that counts once.
template <int kColumnTiles, Flush kFlush, class T, bool kPairs>
LOWBIT_DEVICE void add_scaled_offsets(const WarpTask& task, const Columns& x, float factor,
                                      float (&y)[kColumnTiles][4]) {
  constexpr int kUnits = units_per_field(kFlush);
  RowScales<kFlush, T> rows(task);
  ScalesOf<kColumnTiles, kFlush, kPairs, false> columns(task, x);
  RowValues<int16_t, kUnits> offsets[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = int64_t{kRowTile} * task.tile + (task.lane >> 2) + 8 * i;
    offsets[i] = {task.segment.offsets + row * task.layer.units, task.spans};
  }
  const float factors[2] = {x.per_token == 2 ? 0.0f : factor, factor};
#pragma unroll 1
  for (int span = task.spans.first; span < task.spans.end; span = Spans::after(span)) {
    rows.next_span(span);
    columns.next_span(span);
    offsets[0].next_span(span);
    offsets[1].next_span(span);
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      rows.visit(field);
      columns.visit_sums(field);
      offsets[0].visit(field);
      offsets[1].visit(field);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float scaled = rows.rows[r].at(field, u) * offsets[r].at(field, u);
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
            for (int i = kPairs ? 1 : 0; i < 2; ++i) {
              const float sum = columns.sum(c, i, field, u) * factors[i];
              y[c][2 * r + i] = fmaf(scaled, sum, y[c][2 * r + i]);
            }
          }
        }
      }
    }
  }
}

template <Form kForm, int kColumnTiles, Flush kFlush, class T, bool kPairs = false>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float (&y)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if constexpr (kForm == Form::one) {
    grouped_pass<1, kColumnTiles, kFlush, T, false, kPairs>(task, x, layer.passes[0], y);
  } else if constexpr (kForm == Form::two) {
    grouped_pass<2, kColumnTiles, kFlush, T, false, kPairs>(task, x, layer.passes[0], y);
  } else if constexpr (kForm == Form::four) {
    grouped_pass<4, kColumnTiles, kFlush, T, false, kPairs>(task, x, layer.passes[0], y);
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
}

// The loop for the dtype of the scales.
template <Form kForm, int kColumnTiles, Flush kFlush, bool kPairs = false>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float (&y)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if (layer.scales_dtype == LOWBIT_F16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __half, kPairs>(task, x, y);
  } else if (layer.scales_dtype == LOWBIT_BF16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __nv_bfloat16, kPairs>(task, x, y);
  } else {
    grouped_sums<kForm, kColumnTiles, kFlush, float, kPairs>(task, x, y);
  }
}

// Apart from grouped_sums(), so that its loops need not keep what this one wants.
template <int kColumnTiles, Flush kFlush, bool kPairs>
LOWBIT_DEVICE void add_offsets(const WarpTask& task, const Columns& x, float factor,
                               float (&y)[kColumnTiles][4]) {
  if (task.segment.offsets == nullptr) return;
  if (task.layer.scales_dtype == LOWBIT_F16) {
    add_scaled_offsets<kColumnTiles, kFlush, __half, kPairs>(task, x, factor, y);
  } else if (task.layer.scales_dtype == LOWBIT_BF16) {
    add_scaled_offsets<kColumnTiles, kFlush, __nv_bfloat16, kPairs>(task, x, factor, y);
  } else {
    add_scaled_offsets<kColumnTiles, kFlush, float, kPairs>(task, x, factor, y);
  }
}

}  // namespace lowbit::cuda
