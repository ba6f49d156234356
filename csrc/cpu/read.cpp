// Reading memory and nothing else: the floor that benchmarks hold kernels against.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "core/thread_pool.h"
#include "lowbit.h"

namespace lowbit {
namespace {

// 16 bytes are what every x86-64 and every AArch64 has. Two such loads a cycle are several times what DRAM
// delivers to a core, so wider ones would not make these loops a lower floor for cold data.
using Vector = uint64_t __attribute__((vector_size(16)));
constexpr int64_t kLine = 64;
constexpr int kVectorsPerLine = kLine / sizeof(Vector);

// Exclusive or of the lines [begin, end) at `data`. Each accumulator has a dependency chain of its own; they
// take the vectors in turn, kAccumulators of them in one step of the loop.
template <int kAccumulators>
uint64_t read_lines(const char* data, int64_t begin, int64_t end, int64_t prefetch) {
  Vector sums[kAccumulators] = {};
  constexpr int kLines = std::max(1, kAccumulators / kVectorsPerLine);
  const auto add = [&](const char* line, int first) {
    for (int i = 0; i < kVectorsPerLine; ++i) {
      Vector vector;
      std::memcpy(&vector, line + i * sizeof(Vector), sizeof(Vector));
      sums[(first + i) % kAccumulators] ^= vector;
    }
  };
  int64_t line = begin;
  for (; line + kLines <= end; line += kLines) {
    for (int l = 0; l < kLines; ++l) {
      const char* const source = data + (line + l) * kLine;
      if (prefetch > 0) __builtin_prefetch(source + prefetch);
      add(source, l * kVectorsPerLine);
    }
  }
  for (; line < end; ++line) add(data + line * kLine, 0);
  Vector all{};
  for (const Vector& sum : sums) all ^= sum;
  return all[0] ^ all[1];
}

uint64_t read_tail(const char* data, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = bytes / kLine * kLine; i < bytes; ++i) sum ^= static_cast<uint8_t>(data[i]);
  return sum;
}

using Loop = uint64_t (*)(const char*, int64_t, int64_t, int64_t);

Loop loop_with(int32_t accumulators) {
  switch (accumulators) {
    case 1:
      return read_lines<1>;
    case 4:
      return read_lines<4>;
    case 8:
      return read_lines<8>;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace lowbit

extern "C" lowbit_status lowbit_read(const lowbit_span* spans, int32_t count, int32_t accumulators,
                                     int64_t prefetch_bytes, uint64_t* sum) {
  using namespace lowbit;
  const Loop loop = loop_with(accumulators);
  if (loop == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "lowbit_read: accumulators is %d; allowed: 1, 4, 8", accumulators);
  }
  if (sum == nullptr || (spans == nullptr && count > 0)) {
    return fail(LOWBIT_INVALID_ARGUMENT, "lowbit_read: spans and sum must not be null pointers");
  }
  int64_t lines = 0;
  uint64_t tails = 0;
  for (int32_t i = 0; i < count; ++i) {
    const auto* const data = static_cast<const char*>(spans[i].data);
    lines += spans[i].bytes / kLine;
    tails ^= read_tail(data, spans[i].bytes);
  }
  // Lines of all spans in one numbering, cut into one run per thread as the kernels cut their tiles.
  std::atomic<uint64_t> total{tails};
  parallel_for(lines, 0, [&](int64_t begin, int64_t end, int) {
    uint64_t found = 0;
    int64_t first = 0;
    for (int32_t i = 0; i < count; ++i) {
      const int64_t here = spans[i].bytes / kLine;
      const int64_t from = std::max(begin, first) - first;
      const int64_t to = std::min(end, first + here) - first;
      if (from < to) found ^= loop(static_cast<const char*>(spans[i].data), from, to, prefetch_bytes);
      first += here;
    }
    total.fetch_xor(found, std::memory_order_relaxed);
  });
  *sum = total.load(std::memory_order_relaxed);
  return LOWBIT_OK;
}
