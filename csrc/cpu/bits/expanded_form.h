// The product for many columns: a piece of the tile becomes one byte per weight in the first cache, once, and
// is then multiplied with all columns by a register-blocked kernel.
//
//   expanded   [steps][64 rows][4]   step 8 b + j: codes of inputs j, 8 + j, 16 + j, 24 + j of block b
//
// which is exactly the order of the activation codes, so a step is one dot per row vector and column.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/bits/codes.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

template <class Isa, int kPlanes>
struct ExpandedForm {
  using I32 = typename Isa::I32;
  using Sum = typename Isa::Sum;

  // Signed dot products cannot hold 8-bit codes; those always take the register form, in nibbles.
  static constexpr bool kAvailable = kPlanes < 8 || Isa::kFullByteDot;
  static constexpr int64_t kChunkBlocks = 4;
  static constexpr int64_t kBytes = kChunkBlocks * 8 * kBlockBytes;

  static constexpr int kTileVectors = kTileRows / Isa::kLanes;
  // Register blocking, row vectors x columns: 4 x 6 of 32 registers, 2 x 4 of 16.
  static constexpr int kRows = Isa::kAccumulators >= 16 ? 4 : 2;
  static constexpr int kMaxColumns = Isa::kAccumulators >= 16 ? 6 : 4;

  // Steps that one accumulator holds without overflow.
  static constexpr int64_t kSumSteps = Isa::kSumLimit / (((int64_t{1} << kPlanes) - 1) * 256);

  static LOWBIT_NOINLINE void expand(const uint8_t* bits, int64_t plane_stride, int64_t blocks,
                                     uint8_t* expanded) {
    const uint8_t* lowest = bits + (kPlanes - 1) * plane_stride;
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t byte = 0; byte < kBlockBytes; byte += Isa::kLanes * 4) {
        I32 w[kWidth];
        gather_codes<Isa, kWidth, kPlanes>(lowest + block * kBlockBytes + byte, plane_stride, w);
        store_slots(w, expanded + block * 8 * kBlockBytes + byte, std::make_index_sequence<8 / kWidth>());
      }
    }
  }

  // sums[c][64] += 2 * sum over the blocks of code * activation
  static LOWBIT_INLINE void multiply(const uint8_t* expanded, const int8_t* codes, int64_t column_stride,
                                     int64_t columns, int64_t blocks, int32_t* sums) {
    for (int64_t column = 0; column < columns;) {
      const int64_t count = smaller(kMaxColumns, columns - column);
      const int8_t* group_codes = codes + column * column_stride;
      int32_t* group_sums = sums + column * kTileRows;
      switch (count) {
        case 1:
          passes<1>(expanded, group_codes, column_stride, blocks, group_sums);
          break;
        case 2:
          passes<2>(expanded, group_codes, column_stride, blocks, group_sums);
          break;
        case 3:
          passes<3>(expanded, group_codes, column_stride, blocks, group_sums);
          break;
        case 4:
          passes<4>(expanded, group_codes, column_stride, blocks, group_sums);
          break;
        case 5:
          passes<5>(expanded, group_codes, column_stride, blocks, group_sums);
          break;
        default:
          passes<6>(expanded, group_codes, column_stride, blocks, group_sums);
      }
      column += count;
    }
  }

 private:
  static constexpr int kWidth = code_width(kPlanes);

  template <size_t... kSlot>
  static LOWBIT_INLINE void store_slots(const I32 (&w)[kWidth], uint8_t* out, std::index_sequence<kSlot...>) {
    (store_slot<static_cast<int>(kSlot)>(w, out), ...);
  }

  template <int kSlot>
  static LOWBIT_INLINE void store_slot(const I32 (&w)[kWidth], uint8_t* out) {
    const I32 mask = Isa::set1(byte_mask((1 << kWidth) - 1));
#pragma GCC unroll 8
    for (int i = 0; i < kWidth; ++i) {
      I32 code = w[i];
      if constexpr (kSlot > 0) code = Isa::template shift_right_logical<kWidth * kSlot>(code);
      if constexpr (kWidth < 8) code = Isa::bit_and(code, mask);
      Isa::store(out + (i + kWidth * kSlot) * kBlockBytes, code);
    }
  }

  template <int kColumns>
  static LOWBIT_NOINLINE void passes(const uint8_t* expanded, const int8_t* codes, int64_t column_stride,
                                     int64_t blocks, int32_t* sums) {
    if constexpr (kColumns <= kMaxColumns) {
      for (int row = 0; row < kTileVectors; row += kRows) {
        for (int64_t step = 0; step < blocks * 8; step += kSumSteps) {
          block<kColumns>(expanded + step * kBlockBytes + row * Isa::kLanes * 4, codes + 4 * step,
                          column_stride, smaller(kSumSteps, blocks * 8 - step), sums + row * Isa::kLanes);
        }
      }
    }
  }

  template <int kColumns>
  static LOWBIT_INLINE void block(const uint8_t* expanded, const int8_t* codes, int64_t column_stride,
                                  int64_t steps, int32_t* sums) {
    Sum sum[kRows][kColumns];
    for (auto& columns : sum) {
      for (Sum& column : columns) column = Isa::sum_zero();
    }
    for (int64_t step = 0; step < steps; ++step) {
      I32 w[kRows];
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) w[row] = Isa::load(expanded + row * Isa::kLanes * 4);
#pragma GCC unroll 6
      for (int column = 0; column < kColumns; ++column) {
        const I32 x = Isa::broadcast(codes + column * column_stride);
#pragma GCC unroll 4
        for (int row = 0; row < kRows; ++row) sum[row][column] = Isa::dot(sum[row][column], w[row], x);
      }
      expanded += kBlockBytes;
      codes += 4;
    }
#pragma GCC unroll 6
    for (int column = 0; column < kColumns; ++column) {
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        int32_t* out = sums + column * kTileRows + row * Isa::kLanes;
        Isa::store(out, Isa::template fold<1>(Isa::load(out), sum[row][column]));
      }
    }
  }
};

}  // namespace
}  // namespace lowbit
