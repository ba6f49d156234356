// Persistent worker threads behind one call, parallel_for.
#pragma once

#include <cstdint>

#include "core/function_ref.h"
#include "lowbit.h"

namespace lowbit {

using RangeTask = FunctionRef<void(int64_t begin, int64_t end, int chunk)>;

// Cuts [0, n) into `num_threads` contiguous chunks (<= 0: get_num_threads()) and runs task(begin, end, chunk)
// once per chunk, chunk = 0 .. num_threads - 1; the caller takes chunk 0, and any chunk whose worker is late.
// Returns when all are done.
//
// Chunks depend on n and num_threads only. The task must not throw. When the pool is serving another caller,
// inside a task, or when no thread can be created, the caller runs everything itself as task(0, n, 0):
// results must therefore not depend on the cut. Works again in the child of a fork.
void parallel_for(int64_t n, int num_threads, RangeTask task) noexcept;

// Runs the calling thread's next loops on a host's threads instead; null: on the pool's own.
void set_host_parallel_for(lowbit_parallel_for host) noexcept;

// Default thread count of the process; 0 restores one per core this process may run on.
void set_num_threads(int threads) noexcept;
int get_num_threads() noexcept;

}  // namespace lowbit
