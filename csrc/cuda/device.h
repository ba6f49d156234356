// What a kernel source may use, under both compilers: nvcc for GPUs, g++ for the emulated device of the
// tests.
//
//   LOWBIT_DEVICE                        before a device function
//   LOWBIT_HOST_DEVICE                   before a function of both sides
//   LOWBIT_SHARED(type, name, count);    a static shared array, 16-byte aligned, uninitialised
//   LOWBIT_DYNAMIC_SHARED(type, name);   type* name: the launch's dynamic shared memory, 16-byte aligned
//
// Instructions that C++ has no word for are in cuda/ptx, kernel launches in cuda/launch.h.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef LOWBIT_EMULATED

#include "emulated/device.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LOWBIT_DEVICE __device__ __forceinline__
#define LOWBIT_HOST_DEVICE __host__ __device__ __forceinline__
#define LOWBIT_SHARED(type, name, count) __shared__ __align__(16) type name[count]
// One symbol for all kernels, whatever their element type: the same name with two types would not compile.
#define LOWBIT_DYNAMIC_SHARED(type, name)                       \
  extern __shared__ __align__(16) char lowbit_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(lowbit_dynamic_shared)

#endif
