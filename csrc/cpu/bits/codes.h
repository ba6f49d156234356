// From bit planes to codes, in registers.
//
// With B planes a byte of a plane holds one bit of 8 inputs. Log2(B) exchange steps turn B such vectors into
// B vectors whose bytes hold 8 / B complete codes each, as a transposition of bits:
//
//   width 2:  low  = h g f e d c b a  (bit of inputs 7..0)      codes[0] = G g E e C c A a
//             high = H G F E D C B A                            codes[1] = H h F f D d B b
//
// Generally, slot s of codes[i] (bits width s .. width s + width - 1) is the code of input i + width s.
#pragma once

#include <cstdint>

#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

// Bits of a slot: the number of planes rounded up to a power of two. Missing high planes are zeros.
constexpr int code_width(int planes) {
  return planes <= 1 ? 1 : planes <= 2 ? 2 : planes <= 4 ? 4 : 8;
}

// Four times the same byte.
constexpr int32_t byte_mask(int byte) {
  return static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(byte));
}

// How far ahead of its loads at `position` a plane is fetched, and where to: the second cache. Behind the end
// of a plane follows the same plane of the next tile, `planes` further on: where they are short, the
// processor's own prefetcher finds a stream only when it is nearly over. A loop that asks once for a long run
// does not see that end in it, and fetches the start of the next plane instead.
constexpr int64_t kPrefetchBytes = 6144;

constexpr int64_t prefetch_distance(int planes, int64_t plane_stride, int64_t position) {
  const int64_t distance = plane_stride < kPrefetchBytes ? plane_stride : kPrefetchBytes;
  return position + distance < plane_stride ? distance : distance + (planes - 1) * plane_stride;
}

constexpr int64_t kLineBytes = 64;

LOWBIT_INLINE void prefetch(const uint8_t* data) {
  __builtin_prefetch(data, 0, 2);
}

// `lowest` is the row vector in the least significant of the planes taken; the next more significant plane is
// plane_stride bytes before it.
template <class Isa, int kWidth, int kPlanes>
LOWBIT_INLINE void gather_codes(const uint8_t* lowest, int64_t plane_stride, int64_t ahead,
                                typename Isa::I32* codes) {
  if constexpr (kWidth == 1) {
    if constexpr (Isa::kLanes >= 8) prefetch(lowest + ahead);
    codes[0] = Isa::load(lowest);
  } else {
    constexpr int kHalf = kWidth / 2;
    constexpr int kLowPlanes = kPlanes < kHalf ? kPlanes : kHalf;
    const auto mask = Isa::set1(byte_mask(kHalf == 1 ? 0x55 : kHalf == 2 ? 0x33 : 0x0f));
    gather_codes<Isa, kHalf, kLowPlanes>(lowest, plane_stride, ahead, codes);
    if constexpr (kPlanes > kHalf) {
      gather_codes<Isa, kHalf, kPlanes - kHalf>(lowest - kHalf * plane_stride, plane_stride, ahead,
                                                codes + kHalf);
#pragma GCC unroll 4
      for (int i = 0; i < kHalf; ++i) Isa::template exchange<kHalf>(mask, codes[i], codes[i + kHalf]);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < kHalf; ++i) {
        codes[i + kHalf] = Isa::bit_and(mask, Isa::template shift_right_logical<kHalf>(codes[i]));
        codes[i] = Isa::bit_and(mask, codes[i]);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
