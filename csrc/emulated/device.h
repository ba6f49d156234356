// The emulated CUDA device: what cuda/device.h is made of when g++ compiles a kernel for the tests.
//
// Every CUDA thread is a fibre; blocks run one after the other, on one processor. A thread runs until it must
// wait for others (a barrier, a warp operation), in ascending or descending order, so that what works by
// accident in one order fails in the other. What a GPU leaves undefined is an error here wherever it can be
// noticed: the launch throws a lowbit::Error that says which thread did what, and the process lives on.
//
//   execution.h   identity of the running thread, barrier, warp operations, launch
//   warp.h        shuffles, votes, mma, ldmatrix
//   shared.h      shared memory between guard pages, poisoned for every block
//   memory.h      16-byte loads, asynchronous copies; device memory between guard pages is in buffers.h
//   intrinsics.h  arithmetic that nvcc has built in
//   atomics.h     atomics; threads never run at the same time, so they are plain code
#pragma once

// The vector, half and bfloat16 types and their arithmetic are CUDA's own.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __grid_constant__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static_assert(false, "LOWBIT_SHARED declares shared memory");
#define __grid_constant__
#define __launch_bounds__(...)

#define LOWBIT_DEVICE inline __attribute__((always_inline))
#define LOWBIT_HOST_DEVICE inline __attribute__((always_inline))

#include "emulated/atomics.h"
#include "emulated/execution.h"
#include "emulated/intrinsics.h"
#include "emulated/memory.h"
#include "emulated/shared.h"
#include "emulated/warp.h"
