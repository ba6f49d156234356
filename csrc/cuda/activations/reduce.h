// Reductions over warps and blocks. Every tree is fixed by the number of threads, so that a result is the
// same in every run, and every thread receives it.
#pragma once

#include "cuda/device.h"

namespace lowbit::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  template <class T>
  LOWBIT_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

struct Largest {
  template <class T>
  LOWBIT_DEVICE T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Over each kLanes neighbouring lanes.
template <int kLanes, class T, class Combine>
LOWBIT_DEVICE T reduce_lanes(T value, Combine combine) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Over the block, whose threads all call. `partial` holds 32 values and serves one call only: the barrier
// behind its last read is the one of a later reduction. T{} must change nothing.
template <class T, class Combine>
LOWBIT_DEVICE T reduce_block(T value, T* partial, Combine combine) {
  const unsigned lane = threadIdx.x % 32;
  value = reduce_lanes<32>(value, combine);
  if (lane == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  return reduce_lanes<32>(lane < blockDim.x / 32 ? partial[lane] : T{}, combine);
}

// Four sums over a warp for little more than the price of one: in each of the first two steps a lane passes
// on half of what it holds and goes on with the other half. The sum of values[i] is left in lanes 8 i .. 8 i
// + 7.
LOWBIT_DEVICE float sum_four(const float (&values)[4]) {
  const unsigned lane = threadIdx.x % 32;
  const bool upper = (lane & 16) != 0;
  float low = upper ? values[2] : values[0];
  float high = upper ? values[3] : values[1];
  low += __shfl_xor_sync(kAllLanes, upper ? values[0] : values[2], 16);
  high += __shfl_xor_sync(kAllLanes, upper ? values[1] : values[3], 16);
  const bool odd = (lane & 8) != 0;
  const float sum = (odd ? high : low) + __shfl_xor_sync(kAllLanes, odd ? low : high, 8);
  return reduce_lanes<8>(sum, Sum{});
}

// The same over the block; `partial` as above.
LOWBIT_DEVICE float sum_four_block(const float (&values)[4], float4* partial) {
  const unsigned lane = threadIdx.x % 32;
  const float warp_sum = sum_four(values);
  if (lane % 8 == 0) reinterpret_cast<float*>(partial + threadIdx.x / 32)[lane / 8] = warp_sum;
  __syncthreads();
  const float4 all = lane < blockDim.x / 32 ? partial[lane] : float4{};
  const float rows[4] = {all.x, all.y, all.z, all.w};
  return sum_four(rows);
}

}  // namespace lowbit::cuda
