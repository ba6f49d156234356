// Thread pool and choice of the instruction set.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/balanced_for.h"
#include "core/fp_control.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "lowbit.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

int failures = 0;

#define EXPECT(condition)                                                  \
  do {                                                                     \
    if (!(condition)) {                                                    \
      ++failures;                                                          \
      std::printf("%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
    }                                                                      \
  } while (0)

// Every index once, chunks contiguous and in the documented place.
bool covers(int64_t n, int threads) {
  std::vector<std::atomic<int>> visits(n);
  std::atomic<bool> placed{true};
  lowbit::parallel_for(n, threads, [&](int64_t begin, int64_t end, int chunk) {
    const bool whole = begin == 0 && end == n && chunk == 0;
    const int64_t chunks = std::min<int64_t>(n, threads);
    if (!whole && (begin != n * chunk / chunks || end != n * (chunk + 1) / chunks)) placed = false;
    for (int64_t i = begin; i < end; ++i) ++visits[i];
  });
  for (const auto& count : visits) {
    if (count != 1) return false;
  }
  return placed;
}

void chunks() {
  for (int64_t n : {1, 2, 3, 7, 64, 1000}) {
    for (int threads : {1, 2, 3, 5}) EXPECT(covers(n, threads));
  }
  lowbit::parallel_for(0, 2, [](int64_t, int64_t, int) { EXPECT(false); });
}

void thread_counts() {
  const int cores = lowbit_get_num_threads();
  EXPECT(cores >= 1);
  lowbit_set_num_threads(3);
  EXPECT(lowbit_get_num_threads() == 3);
  lowbit_set_num_threads(0);
  EXPECT(lowbit_get_num_threads() == cores);
}

// Callers from several threads, nested calls, and calls after the workers have gone to sleep.
void concurrent_callers() {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&total, caller] {
      for (int i = 0; i < 300; ++i) {
        if (caller == 0 && i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        lowbit::parallel_for(10, 3, [&](int64_t begin, int64_t end, int) {
          for (int64_t k = begin; k < end; ++k) {
            lowbit::parallel_for(5, 2, [&](int64_t from, int64_t to, int) { total += to - from; });
          }
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT(total == 4 * 300 * 10 * 5);
}

// Runs task() on two threads at once, each waiting for the other; false when the second never came.
template <class Task>
bool on_two_threads(Task task) {
  std::atomic<int> inside{0};
  std::atomic<bool> met{true};
  lowbit::parallel_for(2, 2, [&](int64_t, int64_t, int) {
    ++inside;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (inside < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (inside < 2) met = false;
    task();
  });
  return met;
}

void workers_run() {
  for (int attempt = 0; attempt < 3; ++attempt) EXPECT(on_two_threads([] {}));
}

int exit_status(pid_t child) {
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void survives_fork() {
  EXPECT(covers(100, 2));
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a child that waits for its parent's workers would wait for ever
    std::exit(covers(100, 2) && covers(100, 3) ? 0 : 1);
  }
  EXPECT(exit_status(child) == 0);
  EXPECT(covers(100, 2));
}

std::atomic<int> host_loops{0};

void host_threads(int32_t chunks, void (*body)(void* context, int32_t chunk), void* context) {
  ++host_loops;
  std::vector<std::thread> threads;
  for (int32_t chunk = chunks - 1; chunk >= 0; --chunk) threads.emplace_back(body, context, chunk);
  for (std::thread& thread : threads) thread.join();
}

// Loops of this thread alone run on the host's threads, which round like the caller and run loops within the
// loop themselves; a forked child, where the host's threads do not exist, runs loops on its own.
void host_lends_threads() {
  lowbit_set_parallel_for(host_threads);
  EXPECT(covers(100, 3) && host_loops == 1);
  EXPECT(covers(100, 1) && host_loops == 1);
  std::thread([] { EXPECT(covers(100, 3) && host_loops == 1); }).join();
#if defined(__x86_64__)
  const uint64_t before = lowbit::fp_control();
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
  std::atomic<int> flushing{0};
  lowbit::parallel_for(
      2, 2, [&](int64_t, int64_t, int) { flushing += _MM_GET_FLUSH_ZERO_MODE() == _MM_FLUSH_ZERO_ON; });
  lowbit::set_fp_control(before);
  EXPECT(flushing == 2);
#endif
  host_loops = 0;
  std::atomic<int> inline_loops{0};
  lowbit::parallel_for(3, 3, [&](int64_t, int64_t, int) {
    lowbit::parallel_for(5, 2, [&, caller = std::this_thread::get_id()](int64_t begin, int64_t end, int) {
      inline_loops += begin == 0 && end == 5 && caller == std::this_thread::get_id();
    });
  });
  EXPECT(inline_loops == 3 && host_loops == 1);
  host_loops = 0;
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    std::exit(covers(100, 2) && host_loops == 0 ? 0 : 1);
  }
  EXPECT(exit_status(child) == 0);
  lowbit_set_parallel_for(nullptr);
  EXPECT(covers(100, 3) && host_loops == 0);
}

void workers_round_like_the_caller() {
#if defined(__x86_64__)
  const uint64_t before = lowbit::fp_control();
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
  std::atomic<int> flushing{0};
  const bool two = on_two_threads([&] { flushing += _MM_GET_FLUSH_ZERO_MODE() == _MM_FLUSH_ZERO_ON; });
  lowbit::set_fp_control(before);
  EXPECT(two && flushing == 2);
#endif
}

void scratch_memory() {
  lowbit::Scratch scratch;
  std::byte* const first = scratch.reserve(1000);
  EXPECT(reinterpret_cast<uintptr_t>(first) % lowbit::Scratch::kAlignment == 0);
  EXPECT(scratch.reserve(10) == first && scratch.reserve(1000) == first);
  EXPECT(scratch.reserve(SIZE_MAX / 4) == nullptr);
  EXPECT(scratch.reserve(1000) != nullptr);
}

// Enough for what AVX-512 saves, too small for tiles beside it.
bool take_small_signal_stack() {
  static char stack[8192];
  stack_t small{};
  small.ss_sp = stack;
  small.ss_size = sizeof stack;
  return sigaltstack(&small, nullptr) == 0;
}

// The environment is read at first use, so each case needs a process of its own.
std::string isa_with(const char* forced, lowbit_status* status, bool small_signal_stack = false) {
  int channel[2];
  if (pipe(channel) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    setenv("LOWBIT_CPU_ISA", forced, 1);
    if (small_signal_stack && !take_small_signal_stack()) _exit(98);
    lowbit_isa isa = LOWBIT_ISA_SCALAR;
    const lowbit_status found = lowbit_get_isa(&isa);
    std::string text = found == LOWBIT_OK ? lowbit_isa_name(isa) : lowbit_last_error();
    if (lowbit_isa_refusal() != nullptr) text += std::string(", refused: ") + lowbit_isa_refusal();
    // A level without tiles leaves small signal stacks possible.
    if (found == LOWBIT_OK && !small_signal_stack && isa != LOWBIT_ISA_AMX && !take_small_signal_stack()) {
      text += ", asked for tiles";
    }
    const bool written = write(channel[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? found : 99);
  }
  close(channel[1]);
  std::string text;
  char buffer[256];
  for (ssize_t count; (count = read(channel[0], buffer, sizeof buffer)) > 0;) text.append(buffer, count);
  close(channel[0]);
  *status = static_cast<lowbit_status>(exit_status(child));
  return text;
}

void instruction_sets() {
  EXPECT(lowbit_isa_available(LOWBIT_ISA_SCALAR) == 1);
  EXPECT(lowbit_isa_available(static_cast<lowbit_isa>(7)) == 0);
  EXPECT(lowbit_isa_name(static_cast<lowbit_isa>(7)) == nullptr);
  lowbit_status status;
  for (lowbit_isa isa : {LOWBIT_ISA_SCALAR, LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512,
                         LOWBIT_ISA_AMX, LOWBIT_ISA_NEON}) {
    const std::string name = lowbit_isa_name(isa);
    const std::string answer = isa_with(name.c_str(), &status);
    if (lowbit_isa_available(isa)) {
      EXPECT(status == LOWBIT_OK && answer == name);
    } else {
      EXPECT(status == LOWBIT_UNSUPPORTED && answer.find("forces " + name) != std::string::npos);
    }
  }
  if (lowbit_isa_available(LOWBIT_ISA_AMX)) {
    EXPECT(isa_with("", &status) == "amx" && status == LOWBIT_OK);
    const std::string reason = "a thread's alternate signal stack is too small to save tile registers";
    EXPECT(isa_with("", &status, true) == "avx512, refused: " + reason && status == LOWBIT_OK);
    EXPECT(isa_with("avx2", &status, true) == "avx2" && status == LOWBIT_OK);
    EXPECT(isa_with("amx", &status, true) == "LOWBIT_CPU_ISA forces amx, but " + reason);
    EXPECT(status == LOWBIT_UNSUPPORTED);
  }
  EXPECT(isa_with("sse9", &status).find("'sse9'; allowed: scalar, avx2") != std::string::npos);
  EXPECT(status == LOWBIT_INVALID_ARGUMENT);
  EXPECT(lowbit_set_isa(static_cast<lowbit_isa>(6)) == LOWBIT_INVALID_ARGUMENT);
  EXPECT(lowbit_get_isa(nullptr) == LOWBIT_INVALID_ARGUMENT);
  EXPECT(lowbit_set_isa(LOWBIT_ISA_SCALAR) == LOWBIT_OK);
  lowbit_isa now = LOWBIT_ISA_AVX2;
  EXPECT(lowbit_get_isa(&now) == LOWBIT_OK && now == LOWBIT_ISA_SCALAR);
  EXPECT(std::string(lowbit_version()).find('.') != std::string::npos);
}

// All of [0, n) is computed, everything once.
void pieces() {
  for (const int64_t n : {1, 2, 7, 64, 1000}) {
    for (const int threads : {1, 2, 3, 8, 200}) {
      for (const int64_t least : {1, 5, 2000}) {
        std::vector<std::atomic<int>> seen(n);
        std::atomic<int> tasks{0};
        lowbit::balanced_for(n, threads, least, [&](lowbit::Pieces& pieces, int chunk) {
          ++tasks;
          EXPECT(0 <= chunk && chunk < threads);
          for (int64_t begin, end; pieces.next(&begin, &end);) {
            EXPECT(begin < end && end <= n);
            for (int64_t i = begin; i < end; ++i) ++seen[i];
          }
        });
        EXPECT(1 <= tasks && tasks <= std::min<int64_t>(n, threads));
        for (const auto& count : seen) EXPECT(count == 1);
      }
    }
  }
}

// A thread whose pieces take long gets help.
void pieces_of_others() {
  std::atomic<int> left{31};  // all but the piece that waits for them
  std::atomic<bool> helped{false};
  lowbit::balanced_for(32, 2, 1, [&](lowbit::Pieces& pieces, int) {
    for (int64_t begin, end; pieces.next(&begin, &end);) {
      if (begin > 0) {
        left -= static_cast<int>(end - begin);
        continue;
      }
      const auto start = std::chrono::steady_clock::now();
      while (left > 0 && std::chrono::steady_clock::now() - start < std::chrono::seconds(5)) {
        std::this_thread::yield();
      }
      helped = left == 0;
    }
  });
  EXPECT(helped);
}

}  // namespace

int main() {
  instruction_sets();  // first: its children must not have asked for the instruction set yet
  chunks();
  thread_counts();
  workers_run();
  pieces();
  pieces_of_others();
  concurrent_callers();
  survives_fork();
  host_lends_threads();
  workers_round_like_the_caller();
  scratch_memory();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
