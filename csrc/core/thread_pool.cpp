#include "core/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/fp_control.h"

namespace lowbit {
namespace {

// The layers of one decoding step follow each other within tens of microseconds; waking a sleeping thread
// costs about as much. So a thread that runs out of work watches for more this long before it sleeps.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kMaxThreads = 1024;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns the first value of `word` that differs from `old`: watched for kSpin, then waited for asleep.
uint32_t await_change(const std::atomic<uint32_t>& word, uint32_t old) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      const uint32_t value = word.load(std::memory_order_acquire);
      if (value != old) return value;
      pause();
    }
  } while (Clock::now() < deadline);
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

struct Job {
  int64_t n = 0;
  int threads = 0;
  uint64_t fp_control = 0;
  const RangeTask* task = nullptr;

  void run(int thread) const { (*task)(n* thread / threads, n * (thread + 1) / threads, thread); }
};

class ThreadPool {
 public:
  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;

  // Ends the workers. The caller holds the pool and never releases it, so that later calls run inline.
  void shut_down() {
    stopping_ = true;
    for (const auto& worker : workers_) {
      call(*worker);
      worker->thread.join();
    }
  }

  // Exclusive use; a second caller is refused rather than queued, since it has a core of its own to run on.
  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // Runs the job on the caller and threads - 1 workers. The caller holds the pool.
  void run(Job job) {
    job.threads = 1 + grow(job.threads - 1);
    job_ = job;
    pending_.store(static_cast<uint32_t>(job.threads - 1), std::memory_order_relaxed);
    for (int i = 0; i < job.threads - 1; ++i) call(*workers_[i]);  // publishes job_ and pending_
    job_.run(0);
    while (const uint32_t left = pending_.load(std::memory_order_acquire)) await_change(pending_, left);
  }

 private:
  // A line of its own, so that watching workers do not slow the writes to their neighbours.
  struct alignas(64) Worker {
    std::atomic<uint32_t> calls{0};
    std::thread thread;
  };

  static void call(Worker& worker) {
    worker.calls.fetch_add(1, std::memory_order_seq_cst);
    worker.calls.notify_one();
  }

  void serve(Worker& worker, int thread) noexcept {
    uint64_t control = fp_control();
    for (uint32_t seen = 0;;) {
      seen = await_change(worker.calls, seen);
      if (stopping_) return;
      if (control != job_.fp_control) set_fp_control(control = job_.fp_control);
      job_.run(thread);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    }
  }

  // Makes sure that `wanted` workers exist; returns how many of them there are.
  int grow(int wanted) {
    wanted = std::min(wanted, kMaxThreads - 1);
    if (static_cast<int>(workers_.size()) >= wanted) return wanted;
    // Signals belong to the host's threads: workers are born with all of them blocked.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (static_cast<int>(workers_.size()) < wanted) {
        auto worker = std::make_unique<Worker>();
        workers_.reserve(workers_.size() + 1);
        const int thread = static_cast<int>(workers_.size()) + 1;
        worker->thread = std::thread([this, raw = worker.get(), thread] { serve(*raw, thread); });
        workers_.push_back(std::move(worker));
      }
    } catch (...) {  // no memory or no thread to be had: the work is cut for those that exist
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return std::min(wanted, static_cast<int>(workers_.size()));
  }

  std::atomic<bool> busy_{false};
  std::atomic<bool> stopping_{false};
  Job job_;
  alignas(64) std::atomic<uint32_t> pending_{0};
  std::vector<std::unique_ptr<Worker>> workers_;
};

// The pool of this process, made at first use and never destroyed. After a fork its threads do not exist in
// the child, so the child forgets it (a few hundred bytes) and makes its own.
std::atomic<ThreadPool*> pool{nullptr};

struct Lifetime {
  Lifetime() {
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
  }
  // Process exit or unloading: joins the workers, unless a thread of the host is still computing with them.
  ~Lifetime() {
    ThreadPool* const last = pool.load();
    if (last != nullptr && last->try_acquire()) last->shut_down();
  }
} lifetime;

ThreadPool* current_pool() {
  ThreadPool* current = pool.load(std::memory_order_acquire);
  if (current != nullptr) return current;
  std::unique_ptr<ThreadPool> fresh(new (std::nothrow) ThreadPool);
  if (pool.compare_exchange_strong(current, fresh.get())) return fresh.release();
  return current;
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;  // honours taskset and container CPU sets, which hardware_concurrency() may not
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int> requested_threads{0};

}  // namespace

void parallel_for(int64_t n, int num_threads, RangeTask task) noexcept {
  if (n <= 0) return;
  if (num_threads <= 0) num_threads = get_num_threads();
  const int threads = static_cast<int>(std::min<int64_t>(n, num_threads));
  ThreadPool* const workers = threads > 1 ? current_pool() : nullptr;
  if (workers == nullptr || !workers->try_acquire()) {
    task(0, n, 0);
    return;
  }
  workers->run({n, threads, fp_control(), &task});
  workers->release();
}

void set_num_threads(int threads) noexcept {
  requested_threads = std::clamp(threads, 0, kMaxThreads);
}

int get_num_threads() noexcept {
  static const int cores = available_cores();
  const int requested = requested_threads.load(std::memory_order_relaxed);
  return requested > 0 ? requested : cores;
}

}  // namespace lowbit
