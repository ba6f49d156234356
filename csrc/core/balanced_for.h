// parallel_for whose threads help each other out.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/thread_pool.h"

namespace lowbit {

// Pieces of the chunks of one balanced_for, handed out to one of its threads: those of its own chunk, then
// what the others have not begun.
class Pieces {
 public:
  static constexpr int kMaxThreads = 256;

  // [*begin, *end): the next piece; false: nothing is left.
  bool next(int64_t* begin, int64_t* end) {
    for (; tried_ < all_.threads; ++tried_) {
      const int chunk = (own_ + tried_) % all_.threads;
      const int64_t last = all_.n * (chunk + 1) / all_.threads;
      *begin = all_.fronts[chunk].next.fetch_add(all_.piece, std::memory_order_relaxed);
      *end = std::min(*begin + all_.piece, last);
      if (*begin < last) return true;
    }
    return false;
  }

 private:
  template <class Task>
  friend void balanced_for(int64_t n, int threads, int64_t least, const Task& task) noexcept;

  struct alignas(64) Front {
    std::atomic<int64_t> next;
  };
  struct All {
    int64_t n, piece;
    int threads;
    Front fronts[kMaxThreads];
  };

  Pieces(All& all, int own) : all_(all), own_(own) {}

  All& all_;
  const int own_;
  int tried_ = 0;
};

// Cuts [0, n) into one chunk per thread, and these into up to 16 pieces of `least` or more. Runs task(pieces,
// chunk) once for every chunk, side by side, which takes pieces until there are none. Which thread computes
// what is left to chance: results must not depend on it. n >= 1.
template <class Task>
void balanced_for(int64_t n, int threads, int64_t least, const Task& task) noexcept {
  Pieces::All all;
  all.n = n;
  all.threads = static_cast<int>(std::clamp<int64_t>(n, 1, std::min(threads, Pieces::kMaxThreads)));
  all.piece = all.threads == 1 ? n : std::clamp<int64_t>(n / all.threads / 16, std::min(least, n), n);
  for (int chunk = 0; chunk < all.threads; ++chunk) {
    all.fronts[chunk].next.store(n * chunk / all.threads, std::memory_order_relaxed);
  }
  parallel_for(all.threads, all.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      Pieces pieces(all, static_cast<int>(chunk));
      task(pieces, static_cast<int>(chunk));
    }
  });
}

}  // namespace lowbit
