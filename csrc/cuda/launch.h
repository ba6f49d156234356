// Kernel launches: launch(kernel, shape, stream, arguments...) throws lowbit::Error where the device refuses.
#pragma once

#include <type_traits>

#include "cuda/device.h"
#include "cuda/error.h"

#ifndef LOWBIT_EMULATED
#include <map>
#include <mutex>
#include <utility>
#endif

namespace lowbit::cuda {

#ifdef LOWBIT_EMULATED
using Stream = void*;
#else
using Stream = cudaStream_t;
#endif

struct Shape {
  dim3 grid, block;
  size_t dynamic_shared = 0;
  // Programmatic dependent launch, where the device has it: the kernel starts while its predecessor in the
  // stream still runs, and must call wait_for_previous_kernel() before it touches what that one writes.
  bool overlaps_previous = false;
};

#ifdef LOWBIT_EMULATED

template <class... P>
void launch(void (*kernel)(P...), const Shape& shape, Stream, std::type_identity_t<P>... arguments) {
  emulated::launch({shape.grid, shape.block, shape.dynamic_shared, shape.overlaps_previous},
                   [&] { kernel(arguments...); });
}

#else

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is reported here must not surface again at the next launch
  throw Error(status == cudaErrorMemoryAllocation ? LOWBIT_OUT_OF_MEMORY : LOWBIT_DEVICE_FAILED,
              "%s failed: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

// More than 48 KB of dynamic shared memory must be asked for, once for each kernel and device.
inline void allow_dynamic_shared(const void* kernel, int device, size_t bytes) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (bytes <= kWithoutAsking) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  const std::lock_guard lock(mutex);
  size_t& most = allowed[{kernel, device}];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "asking for dynamic shared memory");
  most = bytes;
}

template <class... P>
void launch(void (*kernel)(P...), const Shape& shape, Stream stream, std::type_identity_t<P>... arguments) {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  const void* const function = reinterpret_cast<const void*>(kernel);
  allow_dynamic_shared(function, device, shape.dynamic_shared);

  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.dynamic_shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = shape.overlaps_previous && major >= 9 ? 1 : 0;
  void* pointers[] = {&arguments..., nullptr};
  check(cudaLaunchKernelExC(&config, function, pointers), "kernel launch");
}

#endif

}  // namespace lowbit::cuda
