#include "torch/tape.h"

#include <array>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <utility>

#include "torch/tensor.h"

namespace lowbit::torch_ops {
namespace {

thread_local Tape* recording_tape = nullptr;
thread_local std::string last_error;

// ---- Functions that are known by their address alone ----

constexpr size_t kMaxArguments = 128;
using Arguments64 = std::vector<int64_t>;

template <size_t>
using Word = int64_t;

// Pointers and 64-bit integers are passed alike by every calling convention that the kernels are built for.
template <size_t... I>
void call_with(void* function, [[maybe_unused]] const int64_t* values, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(Word<I>...)>(function)(values[I]...);
}

using Invoke = void (*)(void* function, const int64_t* values);

template <size_t... Counts>
constexpr std::array<Invoke, sizeof...(Counts)> invokes(std::index_sequence<Counts...>) {
  return {[](void* function, const int64_t* values) {
    call_with(function, values, std::make_index_sequence<Counts>());
  }...};
}

constexpr auto kInvoke = invokes(std::make_index_sequence<kMaxArguments + 1>());

}  // namespace

Tape* Tape::recording() {
  return recording_tape;
}

void Tape::record(Tape* tape) {
  recording_tape = tape;
}

void Tape::play(int64_t begin, int64_t end, int64_t* nanoseconds) const {
  using Clock = std::chrono::steady_clock;
  follow_torch_threads();
  for (int64_t i = begin; i < end; ++i) {
    const Clock::time_point began = nanoseconds ? Clock::now() : Clock::time_point();
    if (calls_[i]() != LOWBIT_OK) throw std::runtime_error(lowbit_last_error());
    if (nanoseconds) {
      nanoseconds[i - begin] =
          std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began).count();
    }
  }
}

}  // namespace lowbit::torch_ops

// ---- For python/lowbit/decoding/tape.py ----

using lowbit::torch_ops::Tape;

extern "C" {

LOWBIT_API Tape* lowbit_tape_new() {
  return new Tape();
}

LOWBIT_API void lowbit_tape_delete(Tape* tape) {
  delete tape;
}

LOWBIT_API void lowbit_tape_record(Tape* tape) {
  Tape::record(tape);
}

// function(values[0], ..., values[count - 1]), each a pointer or an int64. Returns whether it takes so many.
LOWBIT_API int lowbit_tape_add(Tape* tape, void* function, const int64_t* values, int64_t count) {
  using namespace lowbit::torch_ops;
  if (count < 0 || count > static_cast<int64_t>(kMaxArguments)) return 0;
  tape->add([function, invoke = kInvoke[count], kept = Arguments64(values, values + count)] {
    invoke(function, kept.data());
    return LOWBIT_OK;
  });
  return 1;
}

LOWBIT_API int64_t lowbit_tape_size(const Tape* tape) {
  return tape->size();
}

// Empty, or why what was recorded cannot be played.
LOWBIT_API const char* lowbit_tape_refusal(const Tape* tape) {
  return tape->refusal().c_str();
}

// Null, or what went wrong.
LOWBIT_API const char* lowbit_tape_play(const Tape* tape, int64_t begin, int64_t end, int64_t* nanoseconds) {
  using lowbit::torch_ops::last_error;
  try {
    tape->play(begin, end, nanoseconds);
    return nullptr;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception of unknown type";
  }
  return last_error.c_str();
}

}  // extern "C"
