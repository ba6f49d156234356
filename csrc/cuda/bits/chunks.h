// Columns of a block in shared memory, so that its warps wait for L2 once and not each time they need one.
//
// A block goes through its inputs in turns: in each of them an input warp has the next span of its own, all
// row warps the same. The columns of a turn are a chunk; while one is multiplied the next is copied.
//
//   chunk      [input warps][columns][64 pieces]        a piece is 16 bytes, 16 codes of a column
//   memory     chunk of turns 0, 2, 4 ... | chunk of turns 1, 3, 5 ...        one chunk where there is one
//   turn
//
// Where bit 10 of an address is set, in every other column, pieces are exchanged in pairs: eight lanes that
// load together, four of one column and four of the next, then meet all 32 banks.
#pragma once

#include "cuda/bits/fragments.h"
#include "cuda/bits/gemv.h"

namespace lowbit::cuda {

LOWBIT_HOST_DEVICE constexpr int exchanged(int address) {
  return address ^ (address >> 6 & 16);
}

// The chunks of a walk over the block's inputs, up to kColumnTiles tiles of columns. Every thread of the
// block calls begin_pass() once, and the others equally often.
template <int kColumnTiles>
class Chunks {
 public:
  LOWBIT_DEVICE Chunks(const WarpTask& task, const Columns& x, const WarpPlace& place, int turns,
                       char* shared)
      : shared_(shared),
        columns_(min(static_cast<int>(x.count()) - task.first_column, kTileColumns * kColumnTiles)),
        place_(place),
        spans_(task.spans),
        span_(task.spans.first),
        idle_at_last_(task.spans.end - task.spans.first < turns) {
    buffer_bytes_ = turns > 1 ? chunk_bytes(columns_, place.input_warps) : 0;
    buffer_ = buffer_bytes_;  // the first turn changes to the other one
    // The row warps of an input warp copy its columns together: 1, 2, 4 or 8 of them a column of each tile at
    // once, each lane two pieces of it, and so on with the next columns.
    at_once_ = place.row_warps < 2 ? 1 : place.row_warps < 4 ? 2 : place.row_warps < 8 ? 4 : 8;
    first_ = place.row_warp < at_once_ ? exchanged(kSpanInputs * place.row_warp + 16 * place.lane) : kNoCopy;
    const int group = place.lane / 8, t = place.lane / 2 % 4, half = place.lane % 2;
    from_ = in_register(x.codes_of(task.segment.set, task.first_column) + kColumnBytes * place.row_warp +
                        kGroupBytes * group + kHalfGroupBytes * half + 16 * t);
    next_tile_ = kTileColumns * x.padded_inputs;
  }

  // Before the first turn, when the weights are under way already.
  LOWBIT_DEVICE void begin_pass() {
    wait_for_previous_kernel();
    start_copy();
  }

  // The next turn: its chunk can be read until the turn after it.
  LOWBIT_DEVICE void next_span() {
    cp_async_wait<0>();
    __syncthreads();
    buffer_ = buffer_bytes_ - buffer_;
    start_copy();
  }

  LOWBIT_DEVICE void end_pass() {
    if (idle_at_last_) next_span();  // the last turn, in which this warp has no span
  }

  LOWBIT_DEVICE int columns() const { return columns_; }
  LOWBIT_DEVICE const SharedAddress& shared() const { return shared_; }
  // Where the turn's columns of this warp begin.
  LOWBIT_DEVICE int offset() const { return buffer_ + slot(); }

 private:
  static constexpr int kTileBytes = kTileColumns * kSpanInputs;  // of a chunk
  static constexpr int kNoCopy = kColumnTiles * kTileBytes;

  LOWBIT_DEVICE int slot() const { return place_.input_warp * chunk_bytes(columns_, 1); }

  LOWBIT_DEVICE void start_copy() {
    if (span_ < spans_.end) {
      const int8_t* from = from_ + int64_t{span_} * (kSpanFields * kGroupBytes);
      const SharedAddress chunk = shared_ + (buffer_bytes_ - buffer_ + slot());
      const int end = columns_ * kSpanInputs;
#pragma unroll 1
      for (int to = first_; to < min(end, kTileBytes);) {
        copy_pieces(chunk + to, from, true);
        if (kColumnTiles == 2) {
          copy_pieces(chunk + (to + kTileBytes), from + next_tile_, to + kTileBytes < end);
        }
        to = (to + at_once_ * kSpanInputs) ^ (at_once_ == 1 ? 16 : 0);  // exchanged() of the next column
        from += at_once_ * kColumnBytes;
      }
      cp_async_commit();
    }
    span_ = Spans::after(span_);
  }

  static LOWBIT_DEVICE void copy_pieces(const SharedAddress& to, const int8_t* from, bool exist) {
    to.copy_async_16_if(exist, from);
    (to + kSpanInputs / 2).copy_async_16_if(exist, from + kSpanFields / 2 * kGroupBytes);
  }

  SharedAddress shared_;
  int columns_;
  WarpPlace place_;
  Spans spans_;
  int span_;  // what is copied next
  bool idle_at_last_;
  int buffer_;  // where the chunk that is read begins, 0 or buffer_bytes_; the other one is copied
  int buffer_bytes_;
  int at_once_;
  int first_;           // where the thread's first piece goes to, in a chunk of its input warp
  const int8_t* from_;  // where it lies
  int64_t next_tile_;   // and the same of the next tile
};

// The columns that a lane reads as the B operand, as CodePointers.
template <int kColumnTiles>
class ChunkColumns {
 public:
  LOWBIT_DEVICE explicit ChunkColumns(const Chunks<kColumnTiles>& chunks, int lane) : chunks_(chunks) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int column = min(8 * c + (lane >> 2), chunks.columns() - 1);
      first_[c] = in_register(exchanged(column * kSpanInputs + 32 * (lane & 3)));
    }
  }

  LOWBIT_DEVICE void begin_pass() { chunks_.begin_pass(); }
  LOWBIT_DEVICE void next_span(int) {
    chunks_.next_span();
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      halves_[c][0] = in_register(first_[c] + chunks_.offset());
      halves_[c][1] = in_register(halves_[c][0] ^ 16);
    }
  }
  LOWBIT_DEVICE void end_pass() { chunks_.end_pass(); }

  // `field` of the span that began last.
  LOWBIT_DEVICE void load(int field, FieldColumns (&columns)[kColumnTiles]) const {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 raw;
        (chunks_.shared() + (halves_[c][half] + field * kScaleInputs)).load(raw);
        columns[c].set_half(half, raw);
      }
    }
  }

 private:
  Chunks<kColumnTiles> chunks_;
  int first_[kColumnTiles];      // of half 0, in the chunk
  int halves_[kColumnTiles][2];  // of this turn, in all of the memory
};

}  // namespace lowbit::cuda
