// Programmatic dependent launch: a kernel that starts while its predecessor in the stream still runs.
#pragma once

#include "cuda/device.h"

namespace lowbit::cuda {

// Returns when everything the previous kernel of the stream wrote can be read. Nothing below sm_90, where
// kernels never overlap; nothing where the launch did not ask for overlap.
LOWBIT_DEVICE void wait_for_previous_kernel() {
#ifdef LOWBIT_EMULATED
  emulated::wait_for_previous_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

// Lets the next kernel start; it still waits for this one's memory in wait_for_previous_kernel().
LOWBIT_DEVICE void release_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

}  // namespace lowbit::cuda
