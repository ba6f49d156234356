// Operands of the int8 products: fields of digit tiles (A), staged columns (B).
#pragma once

#include "cuda/bits/params.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/integer.h"
#include "cuda/ptx/memory.h"
#include "cuda/ptx/mma.h"

namespace lowbit::cuda {

inline constexpr int kSteps = 4;       // of 32 inputs in a field
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
  LOWBIT_DEVICE void load_if(bool wanted, const uint4* superblock) {
#pragma unroll
    for (int q = 0; q < kSteps; ++q) step[q] = load_stream_if(wanted, superblock + q * kStepWords);
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

// Where what a lane reads of a span begins, kWords to a span. A kStepping pointer goes from one of the warp's
// spans to the next: two registers less, for a loop that needs them.
template <int kWords, bool kStepping>
class SpanPointer {
 public:
  SpanPointer() = default;
  LOWBIT_DEVICE SpanPointer(const void* first, const Spans& spans)
      : first_(static_cast<const uint4*>(first)) {
    if (kStepping) first_ = advance(first_, spans.first - 1, kWords);
    first_ = in_register(first_);
  }

  LOWBIT_DEVICE void next_span(int span) {
    if (kStepping) {
      first_ = in_register(first_ + kWords);
    } else {
      span_ = in_register(advance(first_, span, kWords));
    }
  }
  LOWBIT_DEVICE const uint4* operator+(int words) const { return (kStepping ? first_ : span_) + words; }

 private:
  const uint4* first_;  // kStepping: of the span; before the first next_span() a step before
  const uint4* span_;
};

// The columns that a lane reads as the B operand, through L1, where the block's other row warps find them as
// well: its column of each tile of eight. Lanes of columns that do not exist read the last one; nothing of
// what they compute is stored. For one walk over the inputs.
template <int kColumnTiles, bool kStepping = false>
class CodePointers {
 public:
  LOWBIT_DEVICE CodePointers(const WarpTask& task, const Columns& x) {
    const int last = static_cast<int>(x.count()) - 1;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int column = min(task.first_column + kTileColumns * c + (task.lane >> 2), last);
      const int8_t* const codes = x.codes_of(task.segment.set, column) + 16 * (task.lane & 3);
      tiles_[c] = {codes, task.spans};
    }
  }

  LOWBIT_DEVICE void begin_pass() const { wait_for_previous_kernel(); }
  LOWBIT_DEVICE void end_pass() const {}
  LOWBIT_DEVICE void next_span(int span) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) tiles_[c].next_span(span);
  }

  LOWBIT_DEVICE void load(int field, FieldColumns (&columns)[kColumnTiles]) const {
    load_half(field, 0, columns);
    load_half(field, 1, columns);
  }

  LOWBIT_DEVICE void load_half(int field, int half, FieldColumns (&columns)[kColumnTiles]) const {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      columns[c].set_half(half, load_cached(tiles_[c] + field * kGroupWords + half * (kGroupWords / 2)));
    }
  }

 private:
  static constexpr int kGroupWords = kGroupBytes / sizeof(uint4);

  SpanPointer<kSpanFields * kGroupWords, kStepping> tiles_[kColumnTiles];
};

}  // namespace lowbit::cuda
