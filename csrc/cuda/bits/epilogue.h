// The end of a product: values of any dtype in, finished elements of y out.
#pragma once

#include "cuda/bits/params.h"

namespace lowbit::cuda {

LOWBIT_DEVICE float load_value(const void* data, lowbit_dtype dtype, int64_t index) {
  if (dtype == LOWBIT_F32) return static_cast<const float*>(data)[index];
  if (dtype == LOWBIT_F16) return __half2float(static_cast<const __half*>(data)[index]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}

LOWBIT_DEVICE void store_value(void* data, lowbit_dtype dtype, int64_t index, float value) {
  if (dtype == LOWBIT_F32) {
    static_cast<float*>(data)[index] = value;
  } else if (dtype == LOWBIT_F16) {
    static_cast<__half*>(data)[index] = __float2half_rn(value);
  } else {
    static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
  }
}

// Scale of a row whose unit is the row.
LOWBIT_DEVICE float row_scale(const LayerParams& layer, const SegmentParams& segment, int row) {
  return segment.scales == nullptr ? 1.0f : load_value(segment.scales, layer.scales_dtype, row);
}

LOWBIT_DEVICE int row_offset(const SegmentParams& segment, int row) {
  return segment.offsets == nullptr ? 0 : segment.offsets[row];
}

// y[token][row] = value * (sum_e gates[e] out_scales[e][row]) + bias[row].
LOWBIT_DEVICE void finish(const LayerParams& layer, const SegmentParams& segment, const float* gates,
                          int64_t token, int row, float value) {
  if (segment.out_scales != nullptr) {
    float mix = load_value(segment.out_scales, layer.out_scales_dtype, row);
    if (segment.experts > 1) {
      mix *= gates[0];
      for (int expert = 1; expert < segment.experts; ++expert) {
        const int64_t index = expert * segment.out_scales_stride + row;
        mix = fmaf(gates[expert], load_value(segment.out_scales, layer.out_scales_dtype, index), mix);
      }
    }
    value *= mix;
  }
  const Result& result = layer.result;
  const int64_t column = segment.first_column + row;
  if (result.bias != nullptr) value += load_value(result.bias, result.bias_dtype, column);
  store_value(result.y, result.dtype, token * result.stride + column, value);
}

// The same from the integer sum of a row and a token: of its one column, or of 256 v0 + v1.
LOWBIT_DEVICE void finish_whole(const LayerParams& layer, const SegmentParams& segment, const Columns& x,
                                int row, int64_t token, int64_t sum) {
  int64_t codes = *x.totals_of(segment.set, token * x.per_token);
  if (x.per_token == 2) codes = 256 * codes + *x.totals_of(segment.set, token * 2 + 1);
  const int64_t offset = layer.code_offset + row_offset(segment, row);
  const float value = static_cast<float>(layer.code_factor * sum + offset * codes);
  finish(layer, segment, x.gates_of(segment.set, token), token, row,
         value * *x.scales_of(segment.set, token) * row_scale(layer, segment, row));
}

// The same from a sum that is scaled already, but for the factor A and, without units, for the scale of the
// row.
LOWBIT_DEVICE void finish_grouped(const LayerParams& layer, const SegmentParams& segment, const Columns& x,
                                  float offset_factor, int row, int64_t token, float value) {
  if (layer.unit_inputs == 0) {
    const float sum = *x.sums_of(segment.set, token);
    value = fmaf(static_cast<float>(row_offset(segment, row)) * offset_factor, sum, value + sum);
    value *= row_scale(layer, segment, row);
  }
  finish(layer, segment, x.gates_of(segment.set, token), token, row,
         value * static_cast<float>(layer.code_factor));
}

}  // namespace lowbit::cuda
