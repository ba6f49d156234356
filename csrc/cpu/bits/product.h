// The integer product: precisions `fast` and `high`, and activations quantised to a few bits.
//
// Per run and row, exactly (u = code of a weight, q = integer value of an activation, b active planes of B):
//   t = sum (2 u - (2^b - 1)) q = 2 sum u q - (2^b - 1) sum q        both columns of a token combined
//   v = float(t << (B - b)), with offsets fma(offset, float(sum q), v)
// and then, run by run in ascending order,
//   one weight scale per row:  acc = fma(v, x_scale, acc), times the row scale at the end
//   grouped weight scales:     acc = fma(v * x_scale, w_scale, acc)
// Offsets join as floats because an int16 times a sum of 16-bit values can exceed 32 bits. For runs of 128
// inputs
// (`fast`) all operands are below 2^24, and the fma is the correctly rounded exact integer.
#pragma once

#include <cstdint>

#include "cpu/bits/bits.h"
#include "cpu/bits/epilogue.h"
#include "cpu/bits/expanded_form.h"
#include "cpu/bits/register_form.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

template <class Isa, int kPlanes>
class Product {
 public:
  Product(const lowbit_bits& weight, const Columns& x, const Epilogue& epilogue)
      : weight_(weight),
        x_(x),
        epilogue_(epilogue),
        runs_{x.k_blocks, x.x_group_blocks, weight_group_blocks(weight),
              max_run_blocks(x.max_code, weight.planes)},
        groups_(weight_groups(weight)),
        x_groups_((x.k_blocks + x.x_group_blocks - 1) / x.x_group_blocks),
        plane_stride_(x.k_blocks * kBlockBytes),
        column_stride_(x.k_blocks * kBlockInputs) {}

  void tile(int64_t tile) const {
    const int64_t block_tokens = kBlockColumns / x_.per_token;
    for (int64_t token = 0; token < x_.tokens; token += block_tokens) {
      tokens(tile, token, smaller(block_tokens, x_.tokens - token));
    }
  }

 private:
  // Columns that share one pass over a tile: their sums and floats stay in the first cache.
  static constexpr int64_t kBlockColumns = 24;
  static constexpr int kRegisterColumns = Isa::kAccumulators >= 16 ? 4 : 2;
  static constexpr int64_t kMostRegisterColumns = 4;

  void tokens(int64_t tile, int64_t first_token, int64_t tokens) const {
    const int64_t first_row = tile * kTileRows;
    const int64_t rows = smaller(kTileRows, weight_.out_features - first_row);
    const uint8_t* bits = weight_.tiles + tile * weight_.planes * plane_stride_;
    const int64_t first_column = first_token * x_.per_token;
    const int64_t columns = tokens * x_.per_token;

    float scales[kTileRows];
    const bool grouped = weight_.scales != nullptr && groups_ > 1;
    if (weight_.scales != nullptr && !grouped) {
      load_rows<Isa>(weight_.scales, weight_.scales_dtype, first_row, kTileRows, scales);
    }
    float acc[kBlockColumns][kTileRows];
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t row = 0; row < kTileRows; ++row) acc[token][row] = 0.0f;
    }

    int32_t sums[kBlockColumns * kTileRows];
    int32_t x_sums[kBlockColumns];
    for (int64_t begin = 0; begin < x_.k_blocks;) {
      const int64_t end = runs_.end(begin);
      sum_activations(first_column, columns, begin, end, x_sums);
      multiply(bits, first_column, columns, begin, end, x_sums, sums);
      const int64_t group = (tile * groups_ + begin / runs_.w_group) * kTileRows;
      if (grouped) load_rows<Isa>(weight_.scales, weight_.scales_dtype, group, kTileRows, scales);
      const int16_t* offsets = weight_.offsets == nullptr ? nullptr : weight_.offsets + group;
      for (int64_t token = 0; token < tokens; ++token) {
        const float x_scale = x_.scales[(first_token + token) * x_groups_ + begin / runs_.x_group];
        const int64_t column = token * x_.per_token;
        add_run(sums + column * kTileRows, x_sums + column, offsets, x_scale, grouped ? scales : nullptr,
                acc[token]);
      }
      begin = end;
    }

    const float* row_scales = weight_.scales != nullptr && !grouped ? scales : nullptr;
    for (int64_t token = 0; token < tokens; ++token) {
      finish_rows<Isa>(epilogue_, first_token + token, first_row, rows, row_scales, acc[token]);
    }
  }

  LOWBIT_INLINE void sum_activations(int64_t first_column, int64_t columns, int64_t begin, int64_t end,
                                     int32_t* x_sums) const {
    for (int64_t column = 0; column < columns; ++column) {
      const int32_t* block_sums = x_.sums + (first_column + column) * x_.k_blocks;
      int32_t sum = 0;
      for (int64_t block = begin; block < end; ++block) sum += block_sums[block];
      x_sums[column] = sum;
    }
  }

  // sums[c][64] = 2 sum u q - (2^b - 1) sum q of each column
  LOWBIT_INLINE void multiply(const uint8_t* bits, int64_t first_column, int64_t columns, int64_t begin,
                              int64_t end, const int32_t* x_sums, int32_t* sums) const {
    const uint8_t* run_bits = bits + begin * kBlockBytes;
    const int8_t* codes = x_.codes + first_column * column_stride_ + begin * kBlockInputs;
    for (int64_t column = 0; column < columns; ++column) {
      const auto start = Isa::set1(-((1 << kPlanes) - 1) * x_sums[column]);
      for (int64_t row = 0; row < kTileRows; row += Isa::kLanes)
        Isa::store(sums + column * kTileRows + row, start);
    }

    if constexpr (ExpandedForm<Isa, kPlanes>::kAvailable) {
      if (columns > kMostRegisterColumns) {
        using Form = ExpandedForm<Isa, kPlanes>;
        alignas(64) uint8_t expanded[Form::kBytes];
        for (int64_t block = begin; block < end; block += Form::kChunkBlocks) {
          const int64_t blocks = smaller(Form::kChunkBlocks, end - block);
          Form::expand(bits + block * kBlockBytes, plane_stride_, blocks, expanded);
          Form::multiply(expanded, codes + (block - begin) * kBlockInputs, column_stride_, columns, blocks,
                         sums);
        }
        return;
      }
    }
    for (int64_t column = 0; column < columns;) {
      const int64_t count = smaller(kRegisterColumns, columns - column);
      const int8_t* group_codes = codes + column * column_stride_;
      int32_t* group_sums = sums + column * kTileRows;
      switch (count) {
        case 1:
          in_registers<1>(run_bits, group_codes, end - begin, group_sums);
          break;
        case 2:
          in_registers<2>(run_bits, group_codes, end - begin, group_sums);
          break;
        case 3:
          in_registers<3>(run_bits, group_codes, end - begin, group_sums);
          break;
        default:
          in_registers<4>(run_bits, group_codes, end - begin, group_sums);
      }
      column += count;
    }
  }

  template <int kColumns>
  LOWBIT_INLINE void in_registers(const uint8_t* bits, const int8_t* codes, int64_t blocks,
                                  int32_t* sums) const {
    if constexpr (kColumns <= kRegisterColumns) {
      RegisterForm<Isa, kPlanes, kColumns>::run(bits, plane_stride_, codes, column_stride_, blocks, sums);
    }
  }

  // Adds one run of one token to its 64 floats. w_scales is null where the row has one scale.
  LOWBIT_INLINE void add_run(const int32_t* sums, const int32_t* x_sums, const int16_t* offsets,
                             float x_scale, const float* w_scales, float* acc) const {
    const int inactive = weight_.planes - kPlanes;
    const auto scale = Isa::fset1(x_scale);
    int32_t x_sum = x_sums[0];
    if (x_.per_token == 2) x_sum = (x_sum << x_.radix_shift) + x_sums[1];
    for (int64_t row = 0; row < kTileRows; row += Isa::kLanes) {
      auto total = Isa::load(sums + row);
      if (x_.per_token == 2) {
        total = Isa::add(Isa::shift_left_by(total, x_.radix_shift), Isa::load(sums + kTileRows + row));
      }
      if (inactive != 0) total = Isa::shift_left_by(total, inactive);
      auto value = Isa::to_float(total);
      if (offsets != nullptr) {
        const auto offset = Isa::to_float(Isa::widen_i16(offsets + row));
        value = Isa::fma(offset, Isa::fset1(static_cast<float>(x_sum)), value);
      }
      const auto before = Isa::fload(acc + row);
      const auto after = w_scales == nullptr
                             ? Isa::fma(value, scale, before)
                             : Isa::fma(Isa::fmul(value, scale), Isa::fload(w_scales + row), before);
      Isa::fstore(acc + row, after);
    }
  }

  const lowbit_bits& weight_;
  const Columns& x_;
  const Epilogue& epilogue_;
  const Runs runs_;
  const int64_t groups_, x_groups_;
  const int64_t plane_stride_, column_stride_;
};

}  // namespace
}  // namespace lowbit
