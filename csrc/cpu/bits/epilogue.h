// The ends of a tile: scales in, finished rows out.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/half.h"
#include "cpu/bits/bits.h"
#include "cpu/bits/codes.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/floats.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

// Fetches what lies behind the 64 values from `index` on, for the next tile: so few bytes at a time, and so
// seldom, the processor does not foresee.
LOWBIT_INLINE void fetch_next_rows(const void* data, lowbit_dtype dtype, int64_t index) {
  const int64_t bytes = kTileRows * dtype_size(dtype);
  const uint8_t* const behind = static_cast<const uint8_t*>(data) + index * dtype_size(dtype) + bytes;
  for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch(behind + line);
}

// 64 values of any dtype as floats.
template <class Isa>
LOWBIT_NOINLINE void load_rows(const void* data, lowbit_dtype dtype, int64_t index, float* out) {
  fetch_next_rows(data, dtype, index);
  for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
    Isa::fstore(out + row, load_floats<Isa>(data, dtype, index + row));
  }
}

template <class Isa>
LOWBIT_INLINE void store_floats(typename Isa::F32 values, void* data, lowbit_dtype dtype, int64_t index) {
  if (dtype == LOWBIT_F32) {
    Isa::fstore(static_cast<float*>(data) + index, values);
  } else if (dtype == LOWBIT_F16) {
    Isa::store_f16(static_cast<uint16_t*>(data) + index, values);
  } else {
    Isa::store_bf16(static_cast<uint16_t*>(data) + index, values);
  }
}

// sum_e gate_e out_scales_e for a vector of rows.
template <class Isa, lowbit_dtype kType>
LOWBIT_INLINE typename Isa::F32 mix_scales(const Epilogue& epilogue, const float* gates, int64_t row) {
  auto mixed = load_floats<Isa, kType>(epilogue.out_scales, row);
  if (gates == nullptr) return mixed;
  mixed = Isa::fmul(Isa::fset1(gates[0]), mixed);
  for (int32_t expert = 1; expert < epilogue.experts; ++expert) {
    row += epilogue.out_scales_stride;
    mixed = Isa::fma(Isa::fset1(gates[expert]), load_floats<Isa, kType>(epilogue.out_scales, row), mixed);
  }
  return mixed;
}

// A whole tile for one token, each vector of rows from its sum to y in registers.
template <class Isa, lowbit_dtype kScalesType>
LOWBIT_NOINLINE void finish_tile(const Epilogue& epilogue, const float* gates, int64_t y_index,
                                 int64_t first_row, const float* row_scales, const float* sums) {
  if (epilogue.out_scales != nullptr) {
    for (int32_t expert = 0; expert < epilogue.experts; ++expert) {
      fetch_next_rows(epilogue.out_scales, kScalesType, expert * epilogue.out_scales_stride + first_row);
    }
  }
  if (epilogue.bias != nullptr) fetch_next_rows(epilogue.bias, epilogue.bias_dtype, first_row);
  for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
    auto value = Isa::fload(sums + row);
    if (row_scales != nullptr) value = Isa::fmul(value, Isa::fload(row_scales + row));
    if (epilogue.out_scales != nullptr) {
      value = Isa::fmul(value, mix_scales<Isa, kScalesType>(epilogue, gates, first_row + row));
    }
    if (epilogue.bias != nullptr) {
      value = Isa::fadd(value, load_floats<Isa>(epilogue.bias, epilogue.bias_dtype, first_row + row));
    }
    store_floats<Isa>(value, epilogue.y, epilogue.y_dtype, y_index + row);
  }
}

// The rows of the last tile, where they are not 64: the same steps one by one, since nothing may be read or
// written behind them.
inline LOWBIT_NOINLINE void finish_last_rows(const Epilogue& epilogue, const float* gates, int64_t y_index,
                                             int64_t first_row, int64_t rows, const float* row_scales,
                                             const float* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    float value = sums[row];
    if (row_scales != nullptr) value *= row_scales[row];
    if (epilogue.out_scales != nullptr) {
      const auto scale = [&](int32_t expert) {
        return load_value(epilogue.out_scales, epilogue.out_scales_dtype,
                          expert * epilogue.out_scales_stride + first_row + row);
      };
      float mixed = scale(0);
      if (gates != nullptr) {
        mixed *= gates[0];
        for (int32_t expert = 1; expert < epilogue.experts; ++expert) {
          mixed = std::fma(gates[expert], scale(expert), mixed);
        }
      }
      value *= mixed;
    }
    if (epilogue.bias != nullptr) value += load_value(epilogue.bias, epilogue.bias_dtype, first_row + row);
    store_value(epilogue.y, epilogue.y_dtype, y_index + row, value);
  }
}

// y = ((sum * row_scale) * (sum_e gate_e out_scales_e)) + bias for the rows of one tile and one token.
// row_scales is null where the scales already went into the sums.
template <class Isa>
LOWBIT_INLINE void finish_rows(const Epilogue& epilogue, int64_t token, int64_t first_row, int64_t rows,
                               const float* row_scales, const float* sums) {
  const float* const gates = epilogue.gates == nullptr ? nullptr : epilogue.gates + token * epilogue.experts;
  const int64_t y = token * epilogue.y_stride + first_row;
  if (rows < kTileRows) {
    finish_last_rows(epilogue, gates, y, first_row, rows, row_scales, sums);
  } else if (epilogue.out_scales_dtype == LOWBIT_F32) {
    finish_tile<Isa, LOWBIT_F32>(epilogue, gates, y, first_row, row_scales, sums);
  } else if (epilogue.out_scales_dtype == LOWBIT_F16) {
    finish_tile<Isa, LOWBIT_F16>(epilogue, gates, y, first_row, row_scales, sums);
  } else {
    finish_tile<Isa, LOWBIT_BF16>(epilogue, gates, y, first_row, row_scales, sums);
  }
}

}  // namespace
}  // namespace lowbit
