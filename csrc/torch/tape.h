// A tape: calls noted while they run, to be made again on the same memory without torch and Python.
//
//     recording:   torch.ops.lowbit.planes_linear(x, ...)  ->  runs, and notes {parts, x, bias, y}
//                  kernel(buffer, weight, 128)             ->  its address and arguments are added
//     playing:     for each call: make it
//
// A CPU has no graphs to capture, but the need is the same: a small layer takes as long as the dispatcher and
// Python around it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lowbit.h"

namespace lowbit::torch_ops {

class Tape {
 public:
  using Call = std::function<lowbit_status()>;

  // The tape that operators called by this thread are to be noted on, or null.
  static Tape* recording();
  // Starts (or, with null, ends) recording of this thread.
  static void record(Tape* tape);

  void add(Call call) { calls_.push_back(std::move(call)); }
  // For an operator that cannot be made again from what it was given.
  void refuse(const std::string& reason) { refusal_ = reason; }

  int64_t size() const { return static_cast<int64_t>(calls_.size()); }
  const std::string& refusal() const { return refusal_; }

  // Makes the calls begin .. end - 1. nanoseconds: null, or room for the time of each. Throws what a call
  // throws, and std::runtime_error where one fails.
  void play(int64_t begin, int64_t end, int64_t* nanoseconds) const;

 private:
  std::vector<Call> calls_;
  std::string refusal_;
};

}  // namespace lowbit::torch_ops
