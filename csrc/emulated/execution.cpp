#include "emulated/execution.h"

#include <pthread.h>

#include <bit>
#include <cstdarg>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/error.h"
#include "emulated/buffers.h"
#include "emulated/faults.h"
#include "emulated/fibre.h"
#include "emulated/memory.h"
#include "emulated/region.h"
#include "emulated/shared.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace lowbit::emulated {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 1 << 20;  // red zones around every variable
#else
constexpr size_t kStackBytes = 256 << 10;
#endif

struct Thread {
  Region stack;
  Fibre fibre;
  uint3 index;
};

// Lanes that have come to one warp operation, and those that it waits for.
struct Meeting {
  const WarpOperation* operation;
  uint32_t mask, arrived;
};

struct Warp {
  uint32_t exists = 0, ready = 0, at_barrier = 0, exited = 0;  // one bit per lane
  Meeting meetings[32];
  unsigned num_meetings = 0;
  void* records[32];
};

struct Device {
  std::mutex mutex;
  bool descending = false;
  uint64_t launches = 0;

  // Of the launch.
  void (*call)(const void*) = nullptr;
  const void* body = nullptr;
  pthread_t host{};
  Fibre host_fibre;

  // Of the block.
  std::vector<Thread> threads;
  Warp warps[kMaxWarps];
  uint32_t ready_warps = 0;  // those with a ready lane
  unsigned size = 0, at_barrier = 0, exited = 0;
  uint64_t serial = 0;
  bool waited_for_previous = false;
  unsigned current = 0;
  bool running = false;
  bool failed = false;
  char failure[512];
};

Device device;

Warp& warp_of(unsigned rank) {
  return device.warps[rank >> 5];
}

unsigned first(uint32_t bits) {
  return device.descending ? 31 - std::countl_zero(bits) : std::countr_zero(bits);
}

void set_ready(unsigned warp, uint32_t lanes) {
  device.warps[warp].ready |= lanes;
  device.ready_warps |= 1u << warp;
}

void set_waiting() {
  Warp& warp = warp_of(device.current);
  warp.ready &= ~(1u << (device.current & 31));
  if (warp.ready == 0) device.ready_warps &= ~(1u << (device.current >> 5));
}

void resume(Fibre& from, unsigned rank, bool final = false) {
  device.current = rank;
  threadIdx = device.threads[rank].index;
  switch_fibre(from, device.threads[rank].fibre, final);
}

// The thread whose turn it is among those that can run: the first of its warp, of the first warp there is.
unsigned next_rank() {
  const unsigned warp = first(device.ready_warps);
  return 32 * warp + first(device.warps[warp].ready);
}

// Goes on with the next thread; with the host, if none can run.
void yield(bool final = false) {
  const unsigned rank = device.current;
  Fibre& fibre = device.threads[rank].fibre;
  if (device.ready_warps == 0) {
    switch_fibre(fibre, device.host_fibre, final);
  } else if (const unsigned next = next_rank(); next != rank) {
    resume(fibre, next, final);
  }
}

void thread_main() {
  fibre_entered();
  device.call(device.body);
  fibre_returned(device.threads[device.current].fibre);
  set_waiting();
  warp_of(device.current).exited |= 1u << (device.current & 31);
  ++device.exited;
  yield(true);
  __builtin_unreachable();
}

uint3 index_of(uint64_t rank, const dim3& size) {
  return {static_cast<unsigned>(rank % size.x), static_cast<unsigned>(rank / size.x % size.y),
          static_cast<unsigned>(rank / size.x / size.y)};
}

[[noreturn]] void fail_rank(unsigned rank, const char* format, va_list arguments) {
  const uint3 thread = device.threads[rank].index;
  int length = std::snprintf(device.failure, sizeof(device.failure),
                             "thread (%u, %u, %u) of block (%u, %u, %u): ", thread.x, thread.y, thread.z,
                             blockIdx.x, blockIdx.y, blockIdx.z);
  std::vsnprintf(device.failure + length, sizeof(device.failure) - length, format, arguments);
  device.failed = true;
  switch_fibre(device.threads[device.current].fibre, device.host_fibre, true);
  __builtin_unreachable();
}

// "threads 0-15 wait at __syncthreads, threads 16-31 have exited"
std::string describe_waiting() {
  const auto state = [](unsigned rank) -> std::string {
    const Warp& warp = warp_of(rank);
    const uint32_t bit = 1u << (rank & 31);
    if (warp.exited & bit) return "exited";
    if (warp.at_barrier & bit) return "wait at __syncthreads";
    for (unsigned i = 0; i < warp.num_meetings; ++i) {
      const Meeting& meeting = warp.meetings[i];
      if (!(meeting.arrived & bit)) continue;
      char text[80];
      std::snprintf(text, sizeof(text), "wait at %s with mask 0x%08x", meeting.operation->name, meeting.mask);
      return text;
    }
    return "run";
  };
  std::string text;
  for (unsigned rank = 0; rank < device.size;) {
    const std::string common = state(rank);
    unsigned end = rank + 1;
    while (end < device.size && state(end) == common) ++end;
    if (text.size() > 300) return text + ", ...";
    if (!text.empty()) text += ", ";
    text += end == rank + 1 ? "thread " + std::to_string(rank)
                            : "threads " + std::to_string(rank) + "-" + std::to_string(end - 1);
    text += " " + common;
    rank = end;
  }
  return text;
}

void prepare_threads(const dim3& block) {
  device.size = block.x * block.y * block.z;
  while (device.threads.size() < device.size) {
    Thread thread{};
    thread.stack = map_region(kStackBytes);
    thread.fibre.stack = thread.stack.usable;
    thread.fibre.stack_bytes = thread.stack.bytes;
    device.threads.push_back(thread);
  }
  for (unsigned rank = 0; rank < device.size; ++rank) device.threads[rank].index = index_of(rank, block);
}

void run_block(const Grid& grid) {
  ++device.serial;
  device.at_barrier = device.exited = 0;
  device.ready_warps = 0;
  device.waited_for_previous = false;
  for (unsigned warp = 0; 32 * warp < device.size; ++warp) {
    const unsigned lanes = device.size - 32 * warp;
    Warp& state = device.warps[warp];
    state.exists = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
    state.ready = state.at_barrier = state.exited = 0;
    state.num_meetings = 0;
    set_ready(warp, state.exists);
  }
  for (unsigned rank = 0; rank < device.size; ++rank) {
    prepare_fibre(device.threads[rank].fibre, thread_main);
    forget_copies(rank);
  }
  enter_block_shared();

  device.failed = false;
  device.running = true;
  resume(device.host_fibre, next_rank());
  device.running = false;

  const uint3 block = blockIdx;
  if (device.failed) throw Error(LOWBIT_DEVICE_FAILED, "%s", device.failure);
  if (device.exited != device.size) {
    throw Error(LOWBIT_DEVICE_FAILED, "deadlock in block (%u, %u, %u): %s", block.x, block.y, block.z,
                describe_waiting().c_str());
  }
  if (grid.overlaps_previous && !device.waited_for_previous) {
    throw Error(LOWBIT_DEVICE_FAILED,
                "block (%u, %u, %u) of a kernel that overlaps the previous one never waits for it", block.x,
                block.y, block.z);
  }
  check_block_shared();
}

void check_grid(const Grid& grid) {
  const dim3& blocks = grid.blocks;
  const dim3& threads = grid.threads;
  const uint64_t size = static_cast<uint64_t>(threads.x) * threads.y * threads.z;
  if (size == 0 || size > kMaxThreads || threads.z > 64) {
    throw Error(LOWBIT_DEVICE_FAILED,
                "kernel launch failed: a block of (%u, %u, %u) threads; allowed: 1 to 1024, at most 64 in z",
                threads.x, threads.y, threads.z);
  }
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > INT32_MAX || blocks.y > 65535 ||
      blocks.z > 65535) {
    throw Error(LOWBIT_DEVICE_FAILED,
                "kernel launch failed: a grid of (%u, %u, %u) blocks; allowed: 1 to 2147483647, 65535, 65535",
                blocks.x, blocks.y, blocks.z);
  }
}

}  // namespace

void launch(const Grid& grid, void (*call)(const void*), const void* body) {
  const std::lock_guard lock(device.mutex);
  check_grid(grid);
  ++device.launches;
  prepare_dynamic_shared(grid.dynamic_shared);
  prepare_threads(grid.threads);
  device.call = call;
  device.body = body;
  device.host = pthread_self();
  device.host_fibre = {};
  blockDim = grid.threads;
  gridDim = grid.blocks;
  const FaultHandler handler;
  const uint64_t blocks = static_cast<uint64_t>(grid.blocks.x) * grid.blocks.y * grid.blocks.z;
  try {
    for (uint64_t i = 0; i < blocks; ++i) {
      blockIdx = index_of(device.descending ? blocks - 1 - i : i, grid.blocks);
      run_block(grid);
    }
  } catch (...) {
    (void)repair_margins();  // the next launch must not be blamed
    throw;
  }
  const std::string written = repair_margins();
  if (!written.empty())
    throw Error(LOWBIT_DEVICE_FAILED, "out of bounds: the kernel wrote %s", written.c_str());
}

void set_descending(bool descending) {
  const std::lock_guard lock(device.mutex);
  device.descending = descending;
}

uint64_t launch_count() {
  const std::lock_guard lock(device.mutex);
  return device.launches;
}

std::mutex& device_mutex() {
  return device.mutex;
}

void fail_thread(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fail_rank(device.current, format, arguments);
}

void fail_lane(unsigned lane, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fail_rank((device.current & ~31u) + lane, format, arguments);
}

void barrier() {
  warp_of(device.current).at_barrier |= 1u << (device.current & 31);
  set_waiting();
  if (++device.at_barrier == device.size) {
    device.at_barrier = 0;
    for (unsigned warp = 0; 32 * warp < device.size; ++warp) {
      device.warps[warp].at_barrier = 0;
      set_ready(warp, device.warps[warp].exists);
    }
  }
  yield();
}

void meet(const WarpOperation& operation, uint32_t mask, void* record) {
  Warp& warp = warp_of(device.current);
  const unsigned own = device.current & 31;
  const uint32_t bit = 1u << own;
  if (!(mask & bit))
    fail_thread("calls %s with mask 0x%08x, in which its own lane %u is missing", operation.name, mask, own);
  mask &= warp.exists;
  if (operation.whole_warp && mask != 0xffffffffu) {
    fail_thread("calls %s in a warp of %d threads; it takes 32", operation.name, std::popcount(warp.exists));
  }
  if (warp.exited & mask) {
    fail_thread("calls %s with mask 0x%08x, whose lane %d has exited", operation.name, mask,
                std::countr_zero(warp.exited & mask));
  }

  unsigned i = 0;
  for (; i < warp.num_meetings; ++i) {
    const Meeting& other = warp.meetings[i];
    if (other.operation == &operation && other.mask == mask) break;
    if ((other.mask & bit) && (other.arrived & mask)) {
      fail_thread("calls %s with mask 0x%08x, but lane %d waits for it at %s with mask 0x%08x",
                  operation.name, mask, std::countr_zero(other.arrived & mask), other.operation->name,
                  other.mask);
    }
  }
  if (i == warp.num_meetings) warp.meetings[warp.num_meetings++] = {&operation, mask, 0};
  warp.meetings[i].arrived |= bit;
  warp.records[own] = record;
  set_waiting();
  if (warp.meetings[i].arrived == mask) {
    if (operation.perform != nullptr) operation.perform(warp.records, mask);
    warp.meetings[i] = warp.meetings[--warp.num_meetings];
    set_ready(device.current >> 5, mask);
  }
  yield();
}

unsigned thread_rank() {
  return device.current;
}

uint32_t running_lanes() {
  const Warp& warp = warp_of(device.current);
  return warp.exists & ~warp.exited;
}

void wait_for_previous_kernel() {
  device.waited_for_previous = true;
}

uint64_t block_serial() {
  return device.serial;
}

bool in_kernel() {
  return device.running && pthread_equal(device.host, pthread_self());
}

bool is_stack_overflow(const void* address) {
  const char* const stack = device.threads[device.current].stack.usable;
  return address < stack && address >= stack - page_bytes();
}

}  // namespace lowbit::emulated
