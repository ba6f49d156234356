// Global memory as the wrappers of cuda/ptx/memory.h see it.
#pragma once

#include <cstddef>

#include "vector_types.h"

namespace lowbit::emulated {

// Fails where a 16-byte access is not at a multiple of 16.
void check_aligned(const void* address, const char* what);

uint4 load_16(const uint4* source, const char* name);

// Copies that really are late: the destination holds poison from the issue on, until this thread waits for
// the group that the copy was committed to. A copy never waited for never arrives.
void cp_async_16(void* shared, const void* global, bool valid);
void cp_async_commit();
void cp_async_wait(unsigned pending);

// For the launch: a thread starts with no copies under way.
void forget_copies(unsigned thread_rank);

}  // namespace lowbit::emulated
