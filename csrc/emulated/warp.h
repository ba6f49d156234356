// Warp operations: shuffles and votes, tensor-core products, fragment loads.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulated/execution.h"

namespace lowbit::emulated {

// A lane's part in a shuffle: its value, the lane it wants one from (itself where that is out of range).
struct ShuffleRecord {
  uint64_t value;
  uint32_t source;
};
extern const WarpOperation kShuffle4, kShuffle8;

struct VoteRecord {
  bool predicate;
  uint32_t ballot;
};
extern const WarpOperation kVote, kSyncWarp;

template <class T>
T shuffle(uint32_t mask, T value, uint32_t source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles exchange 4 or 8 bytes");
  ShuffleRecord record{0, source};
  std::memcpy(&record.value, &value, sizeof(T));
  meet(sizeof(T) == 4 ? kShuffle4 : kShuffle8, mask, &record);
  std::memcpy(&value, &record.value, sizeof(T));
  return value;
}

uint32_t ballot(uint32_t mask, bool predicate);

void mma_u8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]);
void mma_s8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]);
void mma_b1_and(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]);
void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]);
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]);
void ldmatrix_x4(uint32_t (&d)[4], const void* row, bool transposed);

}  // namespace lowbit::emulated

// `width`: the warp falls into parts of that many lanes, which exchange among themselves only.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = lowbit::emulated::lane();
  return lowbit::emulated::shuffle(mask, value, (lane & ~(width - 1u)) | (source & (width - 1u)));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const unsigned lane = lowbit::emulated::lane();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return lowbit::emulated::shuffle(mask, value, source <= (lane | (width - 1u)) ? source : lane);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = lowbit::emulated::lane();
  const unsigned source = lane + delta;
  return lowbit::emulated::shuffle(mask, value, source <= (lane | (width - 1u)) ? source : lane);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = lowbit::emulated::lane();
  return lowbit::emulated::shuffle(mask, value, (lane & (width - 1u)) >= delta ? lane - delta : lane);
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  lowbit::emulated::meet(lowbit::emulated::kSyncWarp, mask, nullptr);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return lowbit::emulated::ballot(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}
// The lanes that have not exited: the most that a correct kernel may take from it.
inline unsigned __activemask() {
  return lowbit::emulated::running_lanes();
}
