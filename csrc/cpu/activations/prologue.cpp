#include "cpu/activations/prologue.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"

namespace lowbit {
namespace {

// Multiply-adds below which handing work to another thread costs more than it saves (about 5 us of one core).
constexpr int64_t kParallelWork = int64_t{1} << 17;

}  // namespace

void router_gates(const ActivationKernels& kernels, const float* x, const lowbit_signs& segment,
                  float* gates) {
  const int64_t n = segment.bits.in_features;
  const int32_t experts = segment.experts;
  if (experts == 1) {
    gates[0] = 1.0f;
    return;
  }
  const char* row = static_cast<const char*>(segment.router);
  float largest = -std::numeric_limits<float>::infinity();
  for (int32_t e = 0; e < experts; ++e, row += n * dtype_size(segment.dtype)) {
    gates[e] = kernels.dot(x, row, segment.dtype, n);
    largest = std::max(largest, gates[e]);
  }
  // A NaN logit makes the total, and with it every gate, NaN.
  float total = 0.0f;
  for (int32_t e = 0; e < experts; ++e) total += gates[e] = std::exp(gates[e] - largest);
  for (int32_t e = 0; e < experts; ++e) gates[e] /= total;
}

// Where one token of one segment goes.
struct Prologue::Slot {
  int8_t* codes;
  int32_t* sums;
  float* scales;
  float* values;
  float* gates;
};

Prologue::Prologue(const ActivationKernels& kernels, const CodeFormat& format, bool exact,
                   const lowbit_signs* segments, int32_t num_segments)
    : kernels_(kernels), format_(format), exact_(exact), segments_(segments) {
  for (int32_t s = 0; s < num_segments; ++s) most_experts_ = std::max(most_experts_, segments[s].experts);
  if (most_experts_ > 0) sets_ = num_segments;
}

int64_t Prologue::bytes_per_token() const {
  const int64_t content =
      exact_ ? padded_inputs() * int64_t{sizeof(float)} : format_.per_token * padded_inputs();
  return sets_ * content;
}

lowbit_status Prologue::reserve(int64_t slots, int threads, int64_t table_bytes) {
  thread_local Scratch scratch;
  slots_ = slots;
  table_bytes_ = table_bytes;
  const int64_t items = slots * sets_;
  const int64_t groups = (format_.k_blocks + format_.x_group_blocks - 1) / format_.x_group_blocks;

  ScratchLayout layout;
  const int64_t quantized = exact_ ? 0 : items;
  const size_t codes = layout.add<int8_t>(quantized * format_.per_token * padded_inputs());
  const size_t sums = layout.add<int32_t>(quantized * format_.per_token * format_.k_blocks);
  const size_t scales = layout.add<float>(quantized * groups);
  const size_t values = layout.add<float>((items - quantized) * padded_inputs());
  const size_t gates = layout.add<float>(items * most_experts_);
  const size_t tables = layout.add<uint8_t>(slots * table_bytes);
  const size_t rows = layout.add<float>(threads * 2 * padded_inputs());
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) {
    return fail(LOWBIT_OUT_OF_MEMORY, "no memory for %lld tokens of %lld inputs (%zu bytes)",
                static_cast<long long>(slots), static_cast<long long>(format_.in_features), layout.size());
  }
  codes_ = at<int8_t>(base, codes);
  sums_ = at<int32_t>(base, sums);
  scales_ = at<float>(base, scales);
  values_ = at<float>(base, values);
  gates_ = at<float>(base, gates);
  tables_ = at<uint8_t>(base, tables);
  rows_ = at<float>(base, rows);
  return LOWBIT_OK;
}

lowbit_status Prologue::run(const lowbit_input& x, int64_t begin, int64_t end) {
  const int64_t tokens = end - begin, items = tokens * sets_;
  const int64_t work = items * padded_inputs() * (2 * most_experts_ + 4);
  const int threads =
      work < kParallelWork ? 1 : static_cast<int>(std::min<int64_t>(items, get_num_threads()));
  if (const lowbit_status bad = reserve(tokens, threads)) return bad;
  parallel_for(items, threads, [&](int64_t from, int64_t to, int chunk) {
    for (int64_t item = from; item < to; ++item) {
      // Segments of a token follow each other: its row of x stays in the cache.
      const auto segment = static_cast<int32_t>(item % sets_);
      prepare(x, begin + item / sets_, segment, item / sets_, chunk);
    }
  });
  return LOWBIT_OK;
}

Prologue::Slot Prologue::slot(int64_t index, int32_t segment) const {
  const int64_t position = set(segment) * slots_ + index;
  const int64_t groups = (format_.k_blocks + format_.x_group_blocks - 1) / format_.x_group_blocks;
  return {codes_ + position * format_.per_token * padded_inputs(),
          sums_ + position * format_.per_token * format_.k_blocks, scales_ + position * groups,
          values_ + position * padded_inputs(),
          gates_ + set(segment) * slots_ * most_experts_ + index * segments_[segment].experts};
}

void Prologue::prepare(const lowbit_input& x, int64_t row, int32_t s, int64_t index, int thread) const {
  const lowbit_signs& segment = segments_[s];
  const Slot out = slot(index, s);
  float* const wide = rows_ + thread * 2 * padded_inputs();
  float* const mixed = wide + padded_inputs();
  const int64_t n = x.cols;
  const int64_t padded = padded_inputs();
  const void* const source = static_cast<const char*>(x.data) + row * x.row_stride * dtype_size(x.dtype);
  // Rows that are fp32 already are used where they are, as far as nobody needs the padding behind them.
  const bool in_place = x.dtype == LOWBIT_F32 && (segment.experts > 0 || (n == padded && !exact_));
  const float* values = static_cast<const float*>(source);
  if (!in_place) {
    float* const target = exact_ && segment.experts == 0 ? out.values : wide;
    kernels_.widen(source, x.dtype, n, target);
    std::fill(target + n, target + padded, 0.0f);
    values = target;
  }
  if (segment.experts > 0) {
    float* const target = exact_ ? out.values : mixed;
    router_gates(kernels_, values, segment, out.gates);
    kernels_.mix(values, segment.in_scales, segment.dtype, out.gates, segment.experts, n, target);
    std::fill(target + n, target + padded, 0.0f);
    values = target;
  }
  if (!exact_) {
    kernels_.quantize(values, format_, out.codes, out.sums, out.scales);
  } else if (!kernels_.finite(values, padded)) {
    out.values[0] = std::numeric_limits<float>::quiet_NaN();
  }
}

Columns Prologue::columns(int32_t segment, int64_t first, int64_t slots) const {
  const Slot start = slot(first, segment);
  return {slots,
          format_.per_token,
          format_.radix_shift,
          format_.max_code,
          format_.k_blocks,
          format_.x_group_blocks,
          start.codes,
          start.sums,
          start.scales,
          tables(first)};
}

FloatColumns Prologue::float_columns(int32_t segment, int64_t first, int64_t slots) const {
  return {slots, format_.k_blocks, slot(first, segment).values};
}

const float* Prologue::gates(int32_t segment, int64_t first) const {
  return segments_[segment].experts > 0 ? slot(first, segment).gates : nullptr;
}

}  // namespace lowbit
