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

// Waking a sleeping thread costs tens of microseconds, as long as a small layer takes. So a thread that runs
// out of work first watches for more: the fused calls of one layer follow each other within kSpin; across the
// host's own operators in between (kYield) it keeps offering its core to whoever else wants it.
constexpr std::chrono::microseconds kSpin{50};
constexpr std::chrono::microseconds kYield{500};
constexpr int kMaxThreads = 1024;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns the first value of `word` that differs from `old`.
uint32_t await_change(const std::atomic<uint32_t>& word, uint32_t old) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (Clock::duration waited{0}; waited < kYield; waited = Clock::now() - start) {
    for (int i = 0; i < 32; ++i) {
      const uint32_t value = word.load(std::memory_order_acquire);
      if (value != old) return value;
      pause();
    }
    if (waited > kSpin) std::this_thread::yield();
  }
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

// Whether the calling thread, ours or a host's, is inside a task.
thread_local bool in_task = false;

struct Job {
  int64_t n = 0;
  int threads = 0;
  uint64_t fp_control = 0;
  const RangeTask* task = nullptr;

  void run(int chunk) const {
    in_task = true;
    (*task)(n* chunk / threads, n * (chunk + 1) / threads, chunk);
    in_task = false;
  }
};

class ThreadPool {
 public:
  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;

  // Ends the workers. The caller holds the pool and never releases it, so that later calls run inline.
  void shut_down() {
    stopping_ = true;
    for (const auto& worker : workers_) {
      worker->offer();
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
    for (int i = 0; i < job.threads - 1; ++i) workers_[i]->offer();  // publishes job_ and pending_
    job_.run(0);
    // A worker that has not woken by now (asleep, or its core is taken) would only be waited for.
    for (int i = 0; i < job.threads - 1; ++i) {
      if (workers_[i]->claim(workers_[i]->ticket.load(std::memory_order_relaxed))) {
        job_.run(i + 1);
        pending_.fetch_sub(1, std::memory_order_relaxed);
      }
    }
    while (const uint32_t left = pending_.load(std::memory_order_acquire)) await_change(pending_, left);
  }

 private:
  // A line of its own, so that watching workers do not slow the writes to their neighbours.
  struct alignas(64) Worker {
    // Odd: a chunk is offered. Whoever makes it even, the worker or the caller, runs that chunk.
    std::atomic<uint32_t> ticket{0};
    std::thread thread;

    void offer() {
      ticket.fetch_add(1, std::memory_order_seq_cst);
      ticket.notify_one();
    }
    bool claim(uint32_t offered) {
      return offered % 2 == 1 &&
             ticket.compare_exchange_strong(offered, offered + 1, std::memory_order_acq_rel);
    }
  };

  void serve(Worker& worker, int chunk) noexcept {
    uint64_t control = fp_control();
    for (uint32_t seen = 0;;) {
      const uint32_t offered = await_change(worker.ticket, seen);
      seen = offered + offered % 2;
      if (!worker.claim(offered)) continue;  // the caller was faster
      if (stopping_) return;
      if (control != job_.fp_control) set_fp_control(control = job_.fp_control);
      job_.run(chunk);
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
        const int chunk = static_cast<int>(workers_.size()) + 1;
        worker->thread = std::thread([this, raw = worker.get(), chunk] { serve(*raw, chunk); });
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

// A host's threads do not survive a fork either, and unlike ours its pool may never notice.
std::atomic<bool> in_forked_child{false};

struct Lifetime {
  Lifetime() {
    pthread_atfork(nullptr, nullptr, [] {
      pool.store(nullptr);
      in_forked_child = true;
    });
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

thread_local lowbit_parallel_for host_parallel_for = nullptr;

// One chunk on a thread that is not ours: its floating point state is put back.
void run_on_host(void* job, int32_t chunk) {
  const Job& work = *static_cast<const Job*>(job);
  const uint64_t before = fp_control();
  if (before != work.fp_control) set_fp_control(work.fp_control);
  work.run(chunk);
  if (before != work.fp_control) set_fp_control(before);
}

}  // namespace

void set_host_parallel_for(lowbit_parallel_for host) noexcept {
  host_parallel_for = host;
}

void parallel_for(int64_t n, int num_threads, RangeTask task) noexcept {
  if (n <= 0) return;
  if (num_threads <= 0) num_threads = get_num_threads();
  const int threads = in_task ? 1 : static_cast<int>(std::min<int64_t>(n, num_threads));
  if (threads > 1 && host_parallel_for != nullptr && !in_forked_child) {
    Job job{n, threads, fp_control(), &task};
    host_parallel_for(threads, run_on_host, &job);
    return;
  }
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
