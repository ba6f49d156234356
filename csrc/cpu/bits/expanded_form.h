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
#include "cpu/bits/run_end.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

constexpr int64_t kExpandedBlocks = 4;  // 8 KiB: runs of 128 inputs are one piece
constexpr int64_t kExpandedSteps = kExpandedBlocks * 8;
constexpr int64_t kExpandedBytes = kExpandedSteps * kBlockBytes;

// The codes in slot kSlot of every byte, as they are.
template <class Isa>
struct PlainCodes {
  template <int kWidth, int kSlot>
  static LOWBIT_INLINE typename Isa::I32 of(typename Isa::I32 slots) {
    if constexpr (kSlot > 0) slots = Isa::template shift_right_logical<kWidth * kSlot>(slots);
    if constexpr (kWidth < 8) slots = Isa::bit_and(slots, Isa::set1(byte_mask((1 << kWidth) - 1)));
    return slots;
  }
};

// Writes `blocks` <= kExpandedBlocks blocks of a tile, Codes::of four codes a lane.
template <class Isa, int kPlanes, class Codes = PlainCodes<Isa>>
class Expander {
 public:
  static LOWBIT_NOINLINE void expand(const uint8_t* bits, int64_t plane_stride, int64_t ahead, int64_t blocks,
                                     uint8_t* expanded) {
    const uint8_t* lowest = bits + (kPlanes - 1) * plane_stride;
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t byte = 0; byte < kBlockBytes; byte += Isa::kLanes * 4) {
        I32 w[kWidth];
        gather_codes<Isa, kWidth, kPlanes>(lowest + block * kBlockBytes + byte, plane_stride, ahead, w);
        store_slots(w, expanded + block * 8 * kBlockBytes + byte, std::make_index_sequence<8 / kWidth>());
      }
    }
  }

 private:
  using I32 = typename Isa::I32;

  static constexpr int kWidth = code_width(kPlanes);

  template <size_t... kSlot>
  static LOWBIT_INLINE void store_slots(const I32 (&w)[kWidth], uint8_t* out, std::index_sequence<kSlot...>) {
    (store_slot<static_cast<int>(kSlot)>(w, out), ...);
  }

  template <int kSlot>
  static LOWBIT_INLINE void store_slot(const I32 (&w)[kWidth], uint8_t* out) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth; ++i) {
      Isa::store(out + (i + kWidth * kSlot) * kBlockBytes, Codes::template of<kWidth, kSlot>(w[i]));
    }
  }
};

// A piece of a run, expanded, and the columns to multiply it with.
template <class Isa>
struct ExpandedPiece {
  const uint8_t* expanded;
  int64_t steps;
  bool first, last;  // of the run
  int64_t columns;
  const int8_t* codes;  // of the first column, at the piece's first block
  int64_t column_stride;
  int32_t x_sum_factor;   // the run's integers start with this times the column's x_sum
  const int32_t* x_sums;  // [columns]
  const float* x_scales;  // of the first token
  int64_t x_scale_stride;
  RunEnd<Isa> end;
  int32_t* partial;         // [columns][64], between the pieces of a run
  float (*acc)[kTileRows];  // [tokens]
};

// kSumSteps: steps that one accumulator holds without overflow, a matter of the largest code.
template <class Isa, int64_t kSumSteps>
class ExpandedKernel {
 public:
  static LOWBIT_INLINE void multiply(const ExpandedPiece<Isa>& piece, int per_token) {
    per_token == 1 ? groups<1>(piece) : groups<2>(piece);
  }

 private:
  using I32 = typename Isa::I32;
  using Sum = typename Isa::Sum;

  // Register blocking, row vectors x columns: 4 x 6 of 32 registers, 2 x 4 of 16.
  static constexpr int kRows = Isa::kAccumulators >= 16 ? 4 : 2;
  static constexpr int kMaxColumns = Isa::kAccumulators >= 16 ? 6 : 4;

  template <int kPerToken>
  static LOWBIT_INLINE void groups(const ExpandedPiece<Isa>& piece) {
    for (int64_t column = 0; column < piece.columns; column += kMaxColumns) {
      switch (smaller(kMaxColumns, piece.columns - column)) {
        case 1:
          group<1, kPerToken>(piece, column);
          break;
        case 2:
          group<2, kPerToken>(piece, column);
          break;
        case 3:
          group<3, kPerToken>(piece, column);
          break;
        case 4:
          group<4, kPerToken>(piece, column);
          break;
        case 5:
          group<5, kPerToken>(piece, column);
          break;
        default:
          group<6, kPerToken>(piece, column);
      }
    }
  }

  template <int kColumns, int kPerToken>
  static LOWBIT_NOINLINE void group(const ExpandedPiece<Isa>& piece, int64_t column) {
    if constexpr (kColumns <= kMaxColumns && kColumns % kPerToken == 0) {
      const int8_t* codes = piece.codes + column * piece.column_stride;
      for (int64_t row = 0; row < kTileRows; row += kRows * Isa::kLanes) {
        // Sums of a run in one piece are needed no longer than this: all columns use the same memory.
        const bool whole = piece.first && piece.last;
        int32_t* partial = piece.partial + (whole ? 0 : column * kTileRows) + row;
        for (int64_t step = 0; step < piece.steps; step += kSumSteps) {
          const int64_t steps = smaller(kSumSteps, piece.steps - step);
          Sum sum[kRows][kColumns];
          add_steps(piece.expanded + step * kBlockBytes + row * 4, codes + 4 * step, piece.column_stride,
                    steps, sum);
          if (piece.first && step == 0) {
            for (int c = 0; c < kColumns; ++c) {
              const I32 start = Isa::set1(piece.x_sum_factor * piece.x_sums[column + c]);
              for (int r = 0; r < kRows; ++r) {
                Isa::store(partial + c * kTileRows + r * Isa::kLanes,
                           Isa::template fold<1>(start, sum[r][c]));
              }
            }
          } else {
            for (int c = 0; c < kColumns; ++c) {
              for (int r = 0; r < kRows; ++r) {
                int32_t* total = partial + c * kTileRows + r * Isa::kLanes;
                Isa::store(total, Isa::template fold<1>(Isa::load(total), sum[r][c]));
              }
            }
          }
        }
        if (piece.last) finish<kColumns, kPerToken>(piece, column / kPerToken, row, partial);
      }
    }
  }

  // Rolled up: unrolled, it would be most of the kernel's code.
  template <int kColumns, int kPerToken>
  static LOWBIT_INLINE void finish(const ExpandedPiece<Isa>& piece, int64_t first_token, int64_t first_row,
                                   const int32_t* totals) {
    const RunEnd<Isa> end = piece.end;
    const float* x_scales = piece.x_scales + first_token * piece.x_scale_stride;
    const int32_t* x_sums = piece.x_sums + first_token * kPerToken;
    float* acc = piece.acc[first_token];
#pragma GCC unroll 1
    for (int t = 0; t < kColumns / kPerToken; ++t) {
      I32 total[kRows][kPerToken];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < kPerToken; ++p) total[r][p] = Isa::load(totals + p * kTileRows + r * Isa::kLanes);
      }
      end.template add<kPerToken>(total, 0, x_sums, *x_scales, first_row, acc);
      totals += kPerToken * kTileRows;
      x_scales += piece.x_scale_stride;
      x_sums += kPerToken;
      acc += kTileRows;
    }
  }

  template <int kColumns>
  static LOWBIT_INLINE void add_steps(const uint8_t* expanded, const int8_t* codes, int64_t column_stride,
                                      int64_t steps, Sum (&sum)[kRows][kColumns]) {
    for (auto& columns : sum) {
      for (Sum& column : columns) column = Isa::sum_zero();
    }
    const int8_t* x[kColumns];
    for (int c = 0; c < kColumns; ++c) x[c] = codes + c * column_stride;
    for (int64_t step = 0; step < steps; ++step) {
      I32 w[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) w[r] = Isa::load(expanded + r * Isa::kLanes * 4);
#pragma GCC unroll 6
      for (int c = 0; c < kColumns; ++c) {
        const I32 four = Isa::broadcast(x[c]);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r][c] = Isa::dot(sum[r][c], w[r], four);
        x[c] += 4;
      }
      expanded += kBlockBytes;
    }
    for (auto& columns : sum) {
      for (Sum& column : columns) LOWBIT_KEEP(column);
    }
  }
};

}  // namespace
}  // namespace lowbit
