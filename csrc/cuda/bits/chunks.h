// Columns of a block in shared memory, so that its warps wait for L2 once and not each time they need one.
//
// A block goes through its inputs in turns: input warp w has span first + turn * input_warps + w of 1024
// inputs, all row warps the same. The columns of a turn are a chunk; while one is multiplied the next is
// copied.
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

// The chunks of a walk over the block's inputs. Every thread of the block calls begin_pass() once, and the
// others equally often.
class Chunks {
 public:
  LOWBIT_DEVICE Chunks(const WarpTask& task, const Columns& x, int most_columns, const WarpPlace& place,
                       char* shared)
      : shared_(shared),
        columns_(min(static_cast<int>(x.count()) - task.first_column, most_columns)),
        place_(place),
        spans_(task.spans),
        span_(task.spans.first) {
    const Spans& spans = task.spans;
    turns_left_ = (spans.end - spans.first + place.input_warp + place.input_warps - 1) / place.input_warps;
    idle_at_last_ = spans.first + (turns_left_ - 1) * place.input_warps >= spans.end;
    buffer_bytes_ = turns_left_ > 1 ? chunk_bytes(columns_, place.input_warps) : 0;
    buffer_ = buffer_bytes_;  // the first turn changes to the other one
    // The row warps of an input warp copy its columns together, pairs of warps one, two or four at once, and
    // each thread the same piece of several. A warp that is alone copies a column in two halves.
    const int at_once = place.row_warps < 4 ? 1 : place.row_warps < 8 ? 2 : 4;
    const int column = rank() / kPieces, piece = rank() % kPieces;  // of a group: 4 t of halves 0 and 1
    copies_ = column < at_once;
    of_tile_ = kTileColumns / at_once;
    to_step_ = at_once * kSpanInputs;
    from_step_ = at_once * kColumnBytes;
    next_tile_ =
        static_cast<uint32_t>(kTileColumns * x.padded_inputs - (kTileColumns - at_once) * kColumnBytes);
    from_ = in_register(x.codes_of(task.segment.set, task.first_column) + kGroupBytes * (piece / 8) +
                        kHalfGroupBytes * (piece % 2) + kColumnBytes * column + 16 * (piece / 2 % 4));
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
    if (--turns_left_ > 0) start_copy();
  }

  LOWBIT_DEVICE void end_pass() {
    if (idle_at_last_) next_span();  // the last turn, in which this warp has no span
  }

  LOWBIT_DEVICE int columns() const { return columns_; }
  LOWBIT_DEVICE const SharedAddress& shared() const { return shared_; }
  // Where the turn's columns of this warp begin.
  LOWBIT_DEVICE int offset() const { return buffer_ + slot(); }

 private:
  static constexpr int kPieces = kSpanInputs / 16;  // of a column

  LOWBIT_DEVICE int rank() const { return 32 * place_.row_warp + place_.lane; }
  LOWBIT_DEVICE int slot() const { return place_.input_warp * chunk_bytes(columns_, 1); }

  LOWBIT_DEVICE void start_copy() {
    if (copies_ && span_ < spans_.end) {
      const int8_t* from = from_ + int64_t{span_} * (kSpanFields * kGroupBytes);
      const int begin = buffer_bytes_ - buffer_ + slot();
      int left = of_tile_;
#pragma unroll 1
      for (int to = begin + 16 * rank(); to < begin + columns_ * kSpanInputs; to += to_step_) {
        const SharedAddress piece = shared_ + exchanged(to);
        piece.copy_async_16(from);
        if (place_.row_warps == 1) {
          (piece + kSpanInputs / 2).copy_async_16(from + kSpanFields / 2 * kGroupBytes);
        }
        from += --left == 0 ? next_tile_ : from_step_;
      }
    }
    cp_async_commit();
    span_ += spans_.step;
  }

  SharedAddress shared_;
  int columns_;
  WarpPlace place_;
  Spans spans_;
  int span_;  // what is copied next
  int turns_left_;
  bool idle_at_last_, copies_;
  int buffer_;  // where the chunk that is read begins, 0 or buffer_bytes_; the other one is copied
  int buffer_bytes_;
  int of_tile_;  // columns of a tile that a thread copies a piece of
  int to_step_;
  uint32_t from_step_;  // from one to the next
  uint32_t next_tile_;  // and to the first one of the next tile
  const int8_t* from_;  // the thread's piece of the first column
};

// The columns that a lane reads as the B operand, as CodePointers.
template <int kColumnTiles>
class ChunkColumns {
 public:
  LOWBIT_DEVICE explicit ChunkColumns(const Chunks& chunks, int lane) : chunks_(chunks) {
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
  Chunks chunks_;
  int first_[kColumnTiles];      // of half 0, in the chunk
  int halves_[kColumnTiles][2];  // of this turn, in all of the memory
};

}  // namespace lowbit::cuda
