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
  const int set = task.segment.set;
  if constexpr (kForm == Form::one) {
    const Chunks chunks(x, set, task.first_column, 8 * kColumnTiles, block.place, task.spans, shared);
    ChunkColumns<kColumnTiles> codes(chunks, task.lane);
    whole_pass<1>(task, codes, layer.passes[0], sums);
    __syncthreads();  // the last chunk has been read, its place is free
  } else {
    CodePointers<kColumnTiles> codes(x, set, task.first_column, task.lane);
    if constexpr (kForm == Form::two) {
      whole_pass<2>(task, codes, layer.passes[0], sums);
    } else if constexpr (kForm == Form::four) {
      whole_pass<4>(task, codes, layer.passes[0], sums);
    } else {
      for (int i = 0; i < layer.num_passes; ++i) {
        const Pass& pass = layer.passes[i];
        if constexpr (kForm == Form::planes) {
          whole_planes_pass(task, x, pass, sums[0]);
        } else if (pass.width == 4) {
          whole_pass<4>(task, codes, pass, sums);
        } else if (pass.width == 2) {
          whole_pass<2>(task, codes, pass, sums);
        } else {
          whole_pass<1>(task, codes, pass, sums);
        }
      }
    }
  }
}

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

template <Form kForm, int kColumnTiles, Flush kFlush, class T, bool kPairs = false>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float offset_factor,
                                float (&y)[kColumnTiles][4]) {
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
  if constexpr (has_units(kFlush)) {
    if (task.segment.offsets != nullptr) add_offsets<kColumnTiles, kFlush, T>(task, x, offset_factor, y);
  }
}

// The loop for the dtype of the scales.
template <Form kForm, int kColumnTiles, Flush kFlush, bool kPairs = false>
LOWBIT_DEVICE void grouped_sums(const WarpTask& task, const Columns& x, float offset_factor,
                                float (&y)[kColumnTiles][4]) {
  const LayerParams& layer = task.layer;
  if (layer.scales_dtype == LOWBIT_F16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __half, kPairs>(task, x, offset_factor, y);
  } else if (layer.scales_dtype == LOWBIT_BF16) {
    grouped_sums<kForm, kColumnTiles, kFlush, __nv_bfloat16, kPairs>(task, x, offset_factor, y);
  } else {
    grouped_sums<kForm, kColumnTiles, kFlush, float, kPairs>(task, x, offset_factor, y);
  }
}

}  // namespace lowbit::cuda
