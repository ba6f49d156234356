// Operands of the int8 products: fields of digit tiles (A), staged columns (B).
#pragma once

#include "cuda/bits/params.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/integer.h"
#include "cuda/ptx/memory.h"
#include "cuda/ptx/mma.h"

namespace lowbit::cuda {

inline constexpr int kSteps = 4;                               // of 32 inputs in a field
inline constexpr int kSpanFields = 8;                          // of 128 inputs in a span
inline constexpr int kFieldColumnWords = 128 / sizeof(uint4);  // of a column, from one field to the next
inline constexpr int kStepWords = 32;  // 16-byte words from one step of a superblock to the next
inline constexpr int kSuperblockWords = kSteps * kStepWords;

// Mask of field `field` of digits of `width` bits in the four bytes of a register.
LOWBIT_HOST_DEVICE constexpr uint32_t field_mask(int width, int field) {
  return (((1u << width) - 1u) << (width * field)) * 0x01010101u;
}

LOWBIT_DEVICE void mask_words(uint32_t (&a)[4], const uint4& words, uint32_t mask) {
  a[0] = words.x & mask;
  a[1] = words.y & mask;
  a[2] = words.z & mask;
  a[3] = words.w & mask;
}

// A pointer `count` times `words` words further, in one instruction.
LOWBIT_DEVICE const uint4* advance(const uint4* pointer, int count, int words) {
  const int64_t bytes = int64_t{count} * (words * static_cast<int>(sizeof(uint4)));
  return reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(pointer) + bytes);
}

// One superblock of a row tile, step by step.
struct Words {
  uint4 step[kSteps];

  LOWBIT_DEVICE void load(const uint4* superblock) {
#pragma unroll
    for (int q = 0; q < kSteps; ++q) step[q] = load_stream(superblock + q * kStepWords);
  }
};

// B registers of this lane for the four steps of a field.
struct FieldColumns {
  uint32_t b[kSteps][2];

  // Steps 2 half and 2 half + 1, from 16 bytes of a column (cuda/activations/columns.h).
  LOWBIT_DEVICE void set_half(int half, const uint4& raw) {
    b[2 * half][0] = raw.x, b[2 * half][1] = raw.y;
    b[2 * half + 1][0] = raw.z, b[2 * half + 1][1] = raw.w;
  }
};

// Activations that a loop reads through L1, where the block's other row warps find them as well.
struct FromCache {
  LOWBIT_DEVICE void begin_pass() const { wait_for_previous_kernel(); }
  LOWBIT_DEVICE void next_span() const {}
  LOWBIT_DEVICE void end_pass() const {}
};

// The columns that a lane reads as the B operand: its column of each tile of eight. Lanes of columns that do
// not exist read the last one; nothing of what they compute is stored.
template <int kColumnTiles>
class CodePointers : public FromCache {
 public:
  LOWBIT_DEVICE CodePointers(const Columns& x, int set, int first_column, int lane) {
    const int last = static_cast<int>(x.count()) - 1;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int column = min(first_column + 8 * c + (lane >> 2), last);
      tiles_[c] = in_register(reinterpret_cast<const uint4*>(x.codes_of(set, column) + 32 * (lane & 3)));
    }
  }

  // Fields are visited in ascending order inside a span, with `field` known when compiled.
  LOWBIT_DEVICE void load(int span, int field, FieldColumns (&columns)[kColumnTiles]) {
    load_half(span, field, 0, columns);
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c)
      columns[c].set_half(1, load_cached(spans_[c] + field * kFieldColumnWords + 1));
  }

  LOWBIT_DEVICE void load_half(int span, int field, int half, FieldColumns (&columns)[kColumnTiles]) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      if (field == 0 && half == 0)
        spans_[c] = in_register(advance(tiles_[c], span, kSpanFields * kFieldColumnWords));
      columns[c].set_half(half, load_cached(spans_[c] + field * kFieldColumnWords + half));
    }
  }

 private:
  const uint4* tiles_[kColumnTiles];
  const uint4* spans_[kColumnTiles] = {};
};

}  // namespace lowbit::cuda
