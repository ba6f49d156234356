// The product for few columns: bits go from memory to registers and are never stored in an expanded form.
//
// A byte of the vectors that gather_codes() makes holds several codes. Masking leaves one code in place, at
// weight 2^shift inside the byte, and the byte product multiplies it where it stands:
//
//   one plane, per row and block of 32 inputs (w = dword of bits, x[j] = the 4 activations that meet bit j)
//     sum[0] += dot(w & 0x01010101, x[0])       sum[0] += dot((w >> 4) & 0x01010101, x[4])
//     sum[1] += dot(w & 0x02020202, x[1])       sum[1] += dot((w >> 4) & 0x02020202, x[5])
//     sum[2] += dot(w & 0x04040404, x[2])       ...
//     sum[3] += dot(w & 0x08080808, x[3])
//
// sum[s] is 2^s times too large, an exact multiple of it, and is shifted back once per run. Shifting w by 4
// costs one instruction and saves four accumulators; it also keeps masked codes below 16, so that the 16-bit
// sums of AVX2 cannot overflow within a chunk.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/bits/codes.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

template <class Isa, int kPlanes, int kColumns>
struct RegisterForm {
  using I32 = typename Isa::I32;
  using Sum = typename Isa::Sum;

  static constexpr int kWidth = code_width(kPlanes);
  static constexpr bool kWholeByte = kWidth == 8 && Isa::kFullByteDot;
  static constexpr int kNibbles = kWholeByte ? 1 : 2;  // halves of a byte handled one after the other
  // Codes inside a nibble, each with a mask and an accumulator of its own.
  static constexpr int kSlots = kWidth < 4 ? 4 / kWidth : 1;
  // 8-bit codes in nibbles: the high half is 16 times too small instead, and has its own accumulator.
  static constexpr int kSums = kWidth == 8 && !kWholeByte ? 2 : kSlots;

  static constexpr int kFit = Isa::kAccumulators / (kSums * kColumns);
  static constexpr int kRows = kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;  // row vectors per pass
  static constexpr int kShared = kRows * kWidth <= 4 ? kRows : 1;  // of them at once, sharing the x vectors

  // Blocks per chunk: bounded by the accumulator, and, where a tile takes several passes, by the first cache.
  static constexpr int64_t kLargestCode = kWidth == 1 ? 8 : kWidth == 2 ? 12 : kWholeByte ? 255 : 15;
  static constexpr int64_t kSteps = kWidth == 8 ? 8 : 2 * kWidth;  // products per block into one accumulator
  static constexpr int64_t kSumBlocks = Isa::kSumLimit / (kLargestCode * 256 * kSteps);
  static constexpr int64_t kPassBlocks = kRows * Isa::kLanes == kTileRows ? kSumBlocks : 16;
  static constexpr int64_t kChunkBlocks = kSumBlocks < kPassBlocks ? kSumBlocks : kPassBlocks;
  static constexpr bool kOneChunk = kChunkBlocks >= 32768 / kBlockInputs;  // no run is longer

  // For every group of kRows row vectors, from the one at `row` on, calls finish(row, total) with
  //   total[r][c] = start[c] + 2 * sum over the blocks of code * activation.
  template <class Finish>
  static LOWBIT_INLINE void run(const uint8_t* bits, int64_t plane_stride, int64_t ahead, const int8_t* codes,
                                int64_t column_stride, int64_t blocks, const int32_t* start,
                                const Finish& finish) {
    // Totals of a long run between its chunks.
    [[maybe_unused]] int32_t partial[kOneChunk ? 1 : kColumns][kTileRows];
    for (int64_t block = 0; block < blocks; block += kChunkBlocks) {
      const int64_t count = kOneChunk ? blocks : smaller(kChunkBlocks, blocks - block);
      for (int row = 0; row < kTileRows; row += kRows * Isa::kLanes) {
        Sum sum[kRows][kColumns][kSums];
        add_blocks(bits + block * kBlockBytes + row * 4, plane_stride, ahead, codes + block * kBlockInputs,
                   column_stride, count, sum);
        I32 total[kRows][kColumns];
        for (int r = 0; r < kRows; ++r) {
          for (int c = 0; c < kColumns; ++c) {
            total[r][c] = Isa::set1(start[c]);
            if constexpr (!kOneChunk) {
              if (block > 0) total[r][c] = Isa::load(partial[c] + row + r * Isa::kLanes);
            }
            fold_slots(total[r][c], sum[r][c], std::make_index_sequence<kSums>());
          }
        }
        if constexpr (!kOneChunk) {
          if (block + count < blocks) {
            for (int r = 0; r < kRows; ++r) {
              for (int c = 0; c < kColumns; ++c) Isa::store(partial[c] + row + r * Isa::kLanes, total[r][c]);
            }
            continue;
          }
        }
        finish(row, total);
      }
      if constexpr (kOneChunk) break;
    }
  }

 private:
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t plane_stride, int64_t ahead,
                                       const int8_t* codes, int64_t column_stride, int64_t blocks,
                                       Sum (&sum)[kRows][kColumns][kSums]) {
    for (auto& columns : sum) {
      for (auto& slots : columns) {
        for (Sum& slot : slots) slot = Isa::sum_zero();
      }
    }
    const int8_t* x[kColumns];
    for (int c = 0; c < kColumns; ++c) x[c] = codes + c * column_stride;
    const uint8_t* lowest = bits + (kPlanes - 1) * plane_stride;
    for (int64_t block = 0; block < blocks; ++block) {
#pragma GCC unroll 4
      for (int row = 0; row < kRows; row += kShared) {
        if constexpr (kColumns > 1) {  // the 8 vectors of one column can stay in registers for all rows
          for (const int8_t*& column : x) LOWBIT_FORGET(column);
        }
        I32 w[kShared][kWidth];
#pragma GCC unroll 4
        for (int r = 0; r < kShared; ++r) {
          gather_codes<Isa, kWidth, kPlanes>(lowest + (row + r) * Isa::kLanes * 4, plane_stride, ahead, w[r]);
        }
        nibble<0>(w, x, sum + row);
        if constexpr (kNibbles == 2) {
#pragma GCC unroll 4
          for (int r = 0; r < kShared; ++r) {
#pragma GCC unroll 8
            for (int i = 0; i < kWidth; ++i) w[r][i] = Isa::template shift_right_logical<4>(w[r][i]);
          }
          nibble<1>(w, x, sum + row);
        }
      }
      lowest += kBlockBytes;
      for (const int8_t*& column : x) column += kBlockInputs;
    }
    for (auto& columns : sum) {
      for (auto& slots : columns) {
        for (Sum& slot : slots) LOWBIT_KEEP(slot);
      }
    }
  }

  template <int kNibble>
  static LOWBIT_INLINE void nibble(const I32 (&w)[kShared][kWidth], const int8_t* const (&codes)[kColumns],
                                   Sum (*sum)[kColumns][kSums]) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth; ++i) {
#pragma GCC unroll 4
      for (int slot = 0; slot < kSlots; ++slot) {
        const int input = i + kWidth * slot + (kWidth < 8 ? 4 * kNibble : 0);
        const int into = kSums > kSlots ? kNibble : slot;
        const I32 mask = Isa::set1(byte_mask(kWidth < 4 ? ((1 << kWidth) - 1) << (kWidth * slot) : 15));
        I32 x[kColumns];
#pragma GCC unroll 4
        for (int column = 0; column < kColumns; ++column) {
          x[column] = Isa::broadcast(codes[column] + 4 * input);
        }
#pragma GCC unroll 4
        for (int r = 0; r < kShared; ++r) {
          const I32 code = kWholeByte ? w[r][i] : Isa::bit_and(w[r][i], mask);
#pragma GCC unroll 4
          for (int column = 0; column < kColumns; ++column) {
            sum[r][column][into] = Isa::dot(sum[r][column][into], code, x[column]);
          }
        }
      }
    }
  }

  // total += 2 * value of the accumulators
  template <size_t... kSlot>
  static LOWBIT_INLINE void fold_slots(I32& total, const Sum (&slots)[kSums], std::index_sequence<kSlot...>) {
    ((total = Isa::template fold < kSums == 2 && kWidth == 8
                  ? 1 + 4 * static_cast<int>(kSlot)
                  : 1 - kWidth * static_cast<int>(kSlot) > (total, slots[kSlot])),
     ...);
  }
};

}  // namespace
}  // namespace lowbit
