// Shuffles and votes, right and wrong.
#include "entry.h"

namespace lowbit::cuda {
namespace {

enum ShuffleKind { kIndex, kXor, kDown, kUp };

struct ShuffleParams {
  const uint64_t* x;  // a value per thread; its low half for 4-byte shuffles
  uint64_t* y;
  ShuffleKind kind;
  unsigned mask;  // lanes that take part
  int operand, width, bytes;
};

template <class T>
__device__ T shuffle(const ShuffleParams& p, T value) {
  switch (p.kind) {
    case kIndex:
      return __shfl_sync(p.mask, value, p.operand, p.width);
    case kXor:
      return __shfl_xor_sync(p.mask, value, p.operand, p.width);
    case kDown:
      return __shfl_down_sync(p.mask, value, p.operand, p.width);
    default:
      return __shfl_up_sync(p.mask, value, p.operand, p.width);
  }
}

__global__ void shuffles(const ShuffleParams p) {
  const unsigned i = threadIdx.x;
  if (!(p.mask >> (i & 31) & 1)) return;
  if (p.bytes == 4) {
    p.y[i] = __float_as_uint(shuffle(p, __uint_as_float(static_cast<unsigned>(p.x[i]))));
  } else {
    p.y[i] = shuffle(p, static_cast<unsigned long long>(p.x[i]));
  }
}

// Half of a warp works on its own, then all of it together.
__global__ void halves(int* y) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  int sum = lane;
  if (lane < 16) {
    for (int i = 8; i > 0; i >>= 1) sum += __shfl_xor_sync(0x0000ffffu, sum, i);
  } else {
    for (int i = 8; i > 0; i >>= 1) sum += 2 * __shfl_xor_sync(0xffff0000u, sum, i);
    __syncwarp(0xffff0000u);
  }
  __syncwarp();
  y[threadIdx.x] = sum + 1000 * __shfl_sync(0xffffffffu, sum, 31 - lane);
}

__global__ void votes(unsigned* y) {
  const unsigned lane = threadIdx.x & 31;
  unsigned* const own = y + 8 * threadIdx.x;
  own[0] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  own[1] = __any_sync(0xffffffffu, lane == 40);
  own[2] = __any_sync(0xffffffffu, lane == 30);
  own[3] = __all_sync(0xffffffffu, lane < 31);
  own[4] = __all_sync(0xffffffffu, lane < 32);
  own[5] = lane < 8 ? __ballot_sync(0xffu, lane & 1) : 0;
  own[6] = __activemask();
  own[7] = 0;
}

enum WarpBug {
  kNone,
  kNeverArrives,     // half of the mask waits at the barrier instead
  kOtherOperation,   // half of the mask votes instead
  kOtherMask,        // half of the mask has another mask in mind
  kExited,           // half of the mask has left the kernel
  kNotInMask,        // a lane's own bit is missing
  kReadsIdleLane,    // the source does not take part
  kMissingSyncWarp,  // lanes read what others write, in shared memory
};

struct BugParams {
  int* y;
  WarpBug bug;
};

__global__ void warp_bugs(const BugParams p) {
  LOWBIT_SHARED(int, values, 32);
  const int lane = static_cast<int>(threadIdx.x);
  const bool upper = lane >= 16;
  int value = lane;
  switch (p.bug) {
    case kNeverArrives:
      if (upper) __syncthreads();
      value = __shfl_xor_sync(0xffffffffu, value, 1);
      if (!upper) __syncthreads();
      break;
    case kOtherOperation:
      value =
          upper ? static_cast<int>(__ballot_sync(0xffffffffu, 1)) : __shfl_xor_sync(0xffffffffu, value, 1);
      break;
    case kOtherMask:
      value = __shfl_xor_sync(upper ? 0xfffffff0u : 0xffffffffu, value, 1);
      break;
    case kExited:
      if (upper) return;
      value = __shfl_xor_sync(0xffffffffu, value, 1);
      break;
    case kNotInMask:
      value = __shfl_sync(0x7fffffffu, value, 0);
      break;
    case kReadsIdleLane:
      if (!upper) value = __shfl_xor_sync(0x0000ffffu, value, 16);
      break;
    default:
      values[lane] = value;
      if (p.bug != kMissingSyncWarp) __syncwarp();
      value = values[lane ^ 1];
  }
  p.y[lane] = value;
}

}  // namespace
}  // namespace lowbit::cuda

LOWBIT_ENTRY test_shuffles(const uint64_t* x, uint64_t* y, int32_t threads, int32_t kind, uint32_t mask,
                           int32_t operand, int32_t width, int32_t bytes) {
  using namespace lowbit::cuda;
  return run(shuffles, {.grid = dim3(1), .block = dim3(threads)},
             {x, y, static_cast<ShuffleKind>(kind), mask, operand, width, bytes});
}

LOWBIT_ENTRY test_halves(int* y) {
  using namespace lowbit::cuda;
  return run(halves, {.grid = dim3(1), .block = dim3(64)}, y);
}

LOWBIT_ENTRY test_votes(unsigned* y) {
  using namespace lowbit::cuda;
  return run(votes, {.grid = dim3(1), .block = dim3(64)}, y);
}

LOWBIT_ENTRY test_warp_bugs(int* y, int32_t bug) {
  using namespace lowbit::cuda;
  return run(warp_bugs, {.grid = dim3(1), .block = dim3(32)}, {y, static_cast<WarpBug>(bug)});
}
