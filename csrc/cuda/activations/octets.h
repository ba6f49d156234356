// Rows of x, routers and input scales, eight inputs of a row at a time: the piece that one thread handles.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/ptx/memory.h"
#include "lowbit.h"

namespace lowbit::cuda {

inline constexpr int kOctet = 8;

// The bits of eight values; 16-bit types fill `low` alone. Apart from their conversion, so that the loads of
// several octets are under way before the first one is waited for.
struct RawOctet {
  uint4 low, high;
};

// A row of `size` values of a dtype known at run time.
class Row {
 public:
  LOWBIT_DEVICE Row(const void* data, lowbit_dtype dtype, int64_t size)
      : data_(static_cast<const char*>(data)),
        size_(size),
        dtype_(dtype),
        aligned_(reinterpret_cast<uintptr_t>(data) % 16 == 0) {}

  // Values 8 octet .. 8 octet + 7; those from `size` on are 0.
  LOWBIT_DEVICE RawOctet load(int octet) const {
    const int64_t first = int64_t{kOctet} * octet;
    const char* const source = data_ + first * bytes();
    RawOctet raw{};
    if (aligned_ && first + kOctet <= size_) {
      raw.low = load_cached(reinterpret_cast<const uint4*>(source));
      if (dtype_ == LOWBIT_F32) raw.high = load_cached(reinterpret_cast<const uint4*>(source) + 1);
    } else {
      const auto at = [&](int i) -> uint32_t {
        if (first + i >= size_) return 0;
        return dtype_ == LOWBIT_F32 ? reinterpret_cast<const uint32_t*>(source)[i]
                                    : reinterpret_cast<const uint16_t*>(source)[i];
      };
      raw = {{at(0), at(1), at(2), at(3)}, {at(4), at(5), at(6), at(7)}};
      if (dtype_ != LOWBIT_F32) {
        raw.low = {raw.low.x | raw.low.y << 16, raw.low.z | raw.low.w << 16, raw.high.x | raw.high.y << 16,
                   raw.high.z | raw.high.w << 16};
      }
    }
    return raw;
  }

  // The octet's line on its way to the L2 cache; nothing to wait for.
  LOWBIT_DEVICE void prefetch(int octet) const {
    const int64_t first = int64_t{kOctet} * octet;
    if (first < size_) prefetch_l2(data_ + first * bytes());
  }

  LOWBIT_DEVICE lowbit_dtype dtype() const { return dtype_; }

 private:
  LOWBIT_DEVICE int bytes() const { return dtype_ == LOWBIT_F32 ? 4 : 2; }

  const char* data_;
  int64_t size_;
  lowbit_dtype dtype_;
  bool aligned_;
};

LOWBIT_DEVICE void widen(const RawOctet& raw, lowbit_dtype dtype, float (&values)[kOctet]) {
  const uint32_t words[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                             raw.high.x, raw.high.y, raw.high.z, raw.high.w};
  if (dtype == LOWBIT_F32) {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) values[i] = __uint_as_float(words[i]);
  } else if (dtype == LOWBIT_BF16) {
#pragma unroll
    for (int i = 0; i < kOctet / 2; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kOctet / 2; ++i) {
      values[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i])));
      values[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
    }
  }
}

}  // namespace lowbit::cuda
