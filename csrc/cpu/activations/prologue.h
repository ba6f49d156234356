// Prepares tokens for the bit products: one call per block of tokens, for all segments of a fused layer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/activations/activations.h"
#include "cpu/bits/bits.h"
#include "lowbit.h"

namespace lowbit {

// The prepared tokens lie in slots, in memory of the thread that called reserve() and until it does so again.
// A slot takes one token; with several threads, one token may go to a slot of each.
class Prologue {
 public:
  // exact: tokens are kept in fp32 and `format` serves only for its k_blocks.
  Prologue(const ActivationKernels& kernels, const CodeFormat& format, bool exact,
           const lowbit_signs* segments, int32_t num_segments);

  // Memory that one token takes; the caller cuts long inputs accordingly.
  int64_t bytes_per_token() const;

  // Room for `slots` tokens that up to `threads` threads prepare, and for table_bytes of look-up tables in
  // each slot. Fails only when memory is short.
  lowbit_status reserve(int64_t slots, int threads, int64_t table_bytes = 0);
  // Row `row` of x as `segment` sees it, on thread `thread` of those reserved for.
  void prepare(const lowbit_input& x, int64_t row, int32_t segment, int64_t slot, int thread) const;
  // Both: rows [begin, end) of x in the slots from 0 on, on as many threads as pay.
  lowbit_status run(const lowbit_input& x, int64_t begin, int64_t end);

  // Distinct preparations of a token: one, or one per segment.
  int32_t sets() const { return sets_; }

  // The tokens of `slots` slots, from `first` on.
  Columns columns(int32_t segment, int64_t first, int64_t slots) const;
  FloatColumns float_columns(int32_t segment, int64_t first, int64_t slots) const;
  // Of a slot, whatever its token is prepared for. columns() of a single slot refers to them.
  uint8_t* tables(int64_t slot) const { return table_bytes_ == 0 ? nullptr : tables_ + slot * table_bytes_; }
  // [slots][experts of the segment]; null without experts.
  const float* gates(int32_t segment, int64_t first) const;

 private:
  struct Slot;
  Slot slot(int64_t index, int32_t segment) const;
  int64_t padded_inputs() const { return format_.k_blocks * LOWBIT_BLOCK_INPUTS; }
  // Without experts all segments read the same tokens.
  int64_t set(int32_t segment) const { return sets_ == 1 ? 0 : segment; }

  const ActivationKernels& kernels_;
  const CodeFormat format_;
  const bool exact_;
  const lowbit_signs* const segments_;
  int32_t sets_ = 1;
  int32_t most_experts_ = 0;  // of all segments

  // [sets][slots][...] each
  int64_t slots_ = 0;
  int8_t* codes_ = nullptr;
  int32_t* sums_ = nullptr;
  float* scales_ = nullptr;
  float* values_ = nullptr;  // exact
  float* gates_ = nullptr;   // each set has room for most_experts_ gates per slot
  int64_t table_bytes_ = 0;
  uint8_t* tables_ = nullptr;  // [slots][table_bytes_]
  float* rows_ = nullptr;      // [threads][2][padded inputs], while a token is prepared
};

// Gates [experts] of one token: softmax(x router^T) in fp32.
void router_gates(const ActivationKernels& kernels, const float* x, const lowbit_signs& segment,
                  float* gates);

}  // namespace lowbit
