// Threads of the emulated device: who runs, what they wait for, and how a launch goes through its blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "vector_functions.h"

// Identity of the running thread; set whenever another one takes over.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

namespace lowbit::emulated {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / 32;

// ---- Launch (host side)
// -----------------------------------------------------------------------------------------

struct Grid {
  dim3 blocks, threads;
  size_t dynamic_shared;
  bool overlaps_previous;
};

// Runs `call(body)` as every thread of every block. Throws lowbit::Error; one launch at a time, others wait.
void launch(const Grid& grid, void (*call)(const void*), const void* body);

template <class Body>
void launch(const Grid& grid, const Body& body) {
  launch(grid, [](const void* b) { (*static_cast<const Body*>(b))(); }, &body);
}

// Threads and blocks in ascending order, or in descending order.
void set_descending(bool descending);

// The device does one thing at a time: whoever touches its memory or runs on it holds this.
std::mutex& device_mutex();

// Launches so far.
uint64_t launch_count();

// ---- What a thread may call
// -------------------------------------------------------------------------------------

// Ends the launch with an error that names the running thread.
[[noreturn, gnu::format(printf, 1, 2)]] void fail_thread(const char* format, ...);
// The same, naming lane `lane` of the running thread's warp.
[[noreturn, gnu::format(printf, 2, 3)]] void fail_lane(unsigned lane, const char* format, ...);

// __syncthreads: every thread of the block must come.
void barrier();

// What a warp does together. Each lane of `mask` comes with a record of its own; the last to arrive runs
// `perform` for all of them.
struct WarpOperation {
  const char* name;
  // Records of the lanes in `mask` (its bits for lanes that the block does not have are already cleared).
  void (*perform)(void* const (&records)[32], uint32_t mask);
  bool whole_warp;  // all 32 lanes must take part
};
void meet(const WarpOperation& operation, uint32_t mask, void* record);

// Index of the running thread in its block, its lane, and the lanes of its warp that are at work.
unsigned thread_rank();
inline unsigned lane() {
  return thread_rank() & 31;
}
uint32_t running_lanes();

// A kernel that overlaps its predecessor must wait for it in every block, or the kernel after it could
// overtake the one before.
void wait_for_previous_kernel();

// ---- For the other parts of the device
// --------------------------------------------------------------------------

// Counts up with every block that starts, over all launches: what belongs to another block is stale.
uint64_t block_serial();

// Is the calling host thread inside a kernel, and if so, does `address` lie where its stack has run out?
bool in_kernel();
bool is_stack_overflow(const void* address);

}  // namespace lowbit::emulated

inline void __syncthreads() {
  lowbit::emulated::barrier();
}
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() {
  lowbit::emulated::fail_thread("__trap()");
}
