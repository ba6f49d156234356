// The ends of a tile: scales in, finished rows out.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "cpu/bits/bits.h"
#include "cpu/bits/codes.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/floats.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

// `count` <= 64 values of any dtype as 64 floats, the rest zero. Those behind them are fetched for the next
// tile: so few bytes at a time, and so seldom, the processor does not foresee.
template <class Isa>
LOWBIT_NOINLINE void load_rows(const void* data, lowbit_dtype dtype, int64_t index, int64_t count,
                               float* out) {
  if (count == kTileRows) {
    const int64_t bytes = kTileRows * dtype_size(dtype);
    const uint8_t* const behind = static_cast<const uint8_t*>(data) + index * dtype_size(dtype) + bytes;
    for (int64_t line = 0; line < bytes; line += kLineBytes) prefetch(behind + line);
    for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
      Isa::fstore(out + row, load_floats<Isa>(data, dtype, index + row));
    }
    return;
  }
  for (int64_t row = 0; row < kTileRows; ++row) {
    out[row] = row < count ? load_value(data, dtype, index + row) : 0.0f;
  }
}

template <class Isa>
LOWBIT_NOINLINE void store_rows(const float* values, int64_t count, void* data, lowbit_dtype dtype,
                                int64_t index) {
  if (count < kTileRows) {
    for (int64_t row = 0; row < count; ++row) store_value(data, dtype, index + row, values[row]);
    return;
  }
  for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
    const auto value = Isa::fload(values + row);
    if (dtype == LOWBIT_F32) {
      Isa::fstore(static_cast<float*>(data) + index + row, value);
    } else if (dtype == LOWBIT_F16) {
      Isa::store_f16(static_cast<uint16_t*>(data) + index + row, value);
    } else {
      Isa::store_bf16(static_cast<uint16_t*>(data) + index + row, value);
    }
  }
}

// y = ((sum * row_scale) * (sum_e gate_e out_scales_e)) + bias for the rows of one tile and one token.
// row_scales is null where the scales already went into the sums.
template <class Isa>
LOWBIT_NOINLINE void finish_rows(const Epilogue& epilogue, int64_t token, int64_t first_row, int64_t rows,
                                 const float* row_scales, float* sums) {
  if (row_scales != nullptr) {
    for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
      Isa::fstore(sums + row, Isa::fmul(Isa::fload(sums + row), Isa::fload(row_scales + row)));
    }
  }
  if (epilogue.out_scales != nullptr) {
    float mixed[kTileRows];
    load_rows<Isa>(epilogue.out_scales, epilogue.out_scales_dtype, first_row, rows, mixed);
    if (epilogue.gates != nullptr) {
      const float* gates = epilogue.gates + token * epilogue.experts;
      for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
        Isa::fstore(mixed + row, Isa::fmul(Isa::fset1(gates[0]), Isa::fload(mixed + row)));
      }
      for (int32_t expert = 1; expert < epilogue.experts; ++expert) {
        float scales[kTileRows];
        load_rows<Isa>(epilogue.out_scales, epilogue.out_scales_dtype,
                       expert * epilogue.out_scales_stride + first_row, rows, scales);
        const auto gate = Isa::fset1(gates[expert]);
        for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
          Isa::fstore(mixed + row, Isa::fma(gate, Isa::fload(scales + row), Isa::fload(mixed + row)));
        }
      }
    }
    for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
      Isa::fstore(sums + row, Isa::fmul(Isa::fload(sums + row), Isa::fload(mixed + row)));
    }
  }
  if (epilogue.bias != nullptr) {
    float bias[kTileRows];
    load_rows<Isa>(epilogue.bias, epilogue.bias_dtype, first_row, rows, bias);
    for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
      Isa::fstore(sums + row, Isa::fadd(Isa::fload(sums + row), Isa::fload(bias + row)));
    }
  }
  store_rows<Isa>(sums, rows, epilogue.y, epilogue.y_dtype, token * epilogue.y_stride + first_row);
}

}  // namespace
}  // namespace lowbit
