// Barriers and shared memory, right and wrong.
#include "entry.h"

namespace lowbit::cuda {
namespace {

enum BarrierBug { kNone, kMissing, kDivergent, kExited };

struct ReverseParams {
  const int* x;
  int* y;
  BarrierBug bug;
};

// y = x reversed within each block, through shared memory.
__global__ void reverse(const ReverseParams p) {
  LOWBIT_SHARED(int, values, 64);
  const unsigned i = threadIdx.x;
  const unsigned begin = blockIdx.x * 64;
  values[i] = p.x[begin + i];
  switch (p.bug) {
    case kNone:
      __syncthreads();
      break;
    case kMissing:
      break;
    case kDivergent:
      if (i < 40) {
        __syncthreads();
      } else {
        __syncwarp();
      }
      break;
    case kExited:
      if (i == 17) return;
      __syncthreads();
      break;
  }
  p.y[begin + i] = values[63 - i];
}

struct UninitialisedParams {
  int* y;
  int written;  // threads that write
  bool dynamic;
};

// Every block sums an array that its threads below `written` have set to 1.
__global__ void sum_shared(const UninitialisedParams p) {
  LOWBIT_SHARED(int, values, 32);
  LOWBIT_DYNAMIC_SHARED(int, more);
  int* const array = p.dynamic ? more : values;
  const int i = static_cast<int>(threadIdx.x);
  if (i < p.written) array[i] = 1;
  __syncthreads();
  int sum = 0;
  for (int k = 0; k < 32; ++k) sum += array[k];
  if (i == 0) p.y[blockIdx.x] = sum;
}

// Two arrays of one kernel, and dynamic memory beside them, are different memory.
__global__ void separate_arrays(int* y) {
  LOWBIT_SHARED(uint4, wide, 3);
  LOWBIT_SHARED(unsigned char, bytes, 5);
  LOWBIT_DYNAMIC_SHARED(float, more);
  if (threadIdx.x == 0) {
    wide[2] = make_uint4(1, 2, 3, 4);
    bytes[4] = 5;
    more[9] = 6.0f;
  }
  __syncthreads();
  const bool aligned = (reinterpret_cast<uintptr_t>(wide) | reinterpret_cast<uintptr_t>(bytes) |
                        reinterpret_cast<uintptr_t>(more)) %
                           16 ==
                       0;
  y[threadIdx.x] = aligned ? static_cast<int>(wide[2].w) + bytes[4] + static_cast<int>(more[9]) : -1;
}

// The place of every thread, and the order in which the first warp of every block came by.
struct PlacesParams {
  unsigned* y;      // [blocks][threads][6]
  unsigned* order;  // counter, then block * 32 + lane in order of arrival
};

__global__ void places(const PlacesParams p) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  unsigned* const y = p.y + 6 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  y[0] = blockIdx.x;
  y[1] = blockIdx.y;
  y[2] = blockIdx.z;
  y[3] = threadIdx.x;
  y[4] = threadIdx.y;
  y[5] = threadIdx.z;
  if (thread < 32) p.order[1 + atomicAdd(p.order, 1u)] = 32 * block + thread;
}

}  // namespace
}  // namespace lowbit::cuda

LOWBIT_ENTRY test_reverse(const int* x, int* y, int32_t blocks, int32_t bug) {
  using namespace lowbit::cuda;
  return run(reverse, {.grid = dim3(blocks), .block = dim3(64)}, {x, y, static_cast<BarrierBug>(bug)});
}

LOWBIT_ENTRY test_sum_shared(int* y, int32_t blocks, int32_t written, int32_t dynamic) {
  using namespace lowbit::cuda;
  return run(sum_shared, {.grid = dim3(blocks), .block = dim3(32), .dynamic_shared = 128},
             {y, written, dynamic != 0});
}

LOWBIT_ENTRY test_separate_arrays(int* y) {
  using namespace lowbit::cuda;
  return run(separate_arrays, {.grid = dim3(2), .block = dim3(32), .dynamic_shared = 40}, y);
}

LOWBIT_ENTRY test_places(unsigned* y, unsigned* order) {
  using namespace lowbit::cuda;
  return run(places, {.grid = dim3(2, 3, 2), .block = dim3(8, 3, 2)}, {y, order});
}
