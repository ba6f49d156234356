// From bit planes to codes: one vector of each plane becomes eight vectors of indices, one per bit position.
//
// Plane p of a chunk holds bit j of byte i for input 8 i + j. Bits of one input lie in the same place of the
// B planes; the table look-ups want them side by side. A transpose of bits within bytes does that with masks
// and shifts for all bytes of a vector at once, here for 4 planes a b c d (a most significant):
//
//   one plane       a7 a6 a5 a4 a3 a2 a1 a0
//   pairs, even     a6 b6 a4 b4 a2 b2 a0 b0      and of c, d likewise; odd inputs in a second vector
//   nibbles 0       a4 b4 c4 d4 a0 b0 c0 d0      inputs 0 and 4; three more vectors for 1 5, 2 6 and 3 7
//
// With fewer planes the leading bits of a nibble hold bits of other inputs. Look-ups ignore them: the tables
// repeat, or the index is masked.
#pragma once

#include "cpu/isa/inline.h"

namespace lowbit::codebook {

// Bits of input 2 i (even) or 2 i + 1 (odd) of two planes, side by side; `high` goes left.
template <class V>
LOWBIT_INLINE typename V::I32 even_pairs(typename V::I32 high, typename V::I32 low) {
  return V::select(V::set1(static_cast<int32_t>(0xaaaaaaaa)), V::template shift_left<1>(high), low);
}
template <class V>
LOWBIT_INLINE typename V::I32 odd_pairs(typename V::I32 high, typename V::I32 low) {
  return V::select(V::set1(0x55555555), V::template shift_right_logical<1>(low), high);
}

// Codes of kPlanes (1 to 4) planes: the low nibbles of out[i] belong to inputs i, the high ones to i + 4.
template <class V, int kPlanes>
LOWBIT_INLINE void nibbles(const typename V::I32* planes, typename V::I32* out) {
  using I32 = typename V::I32;
  if constexpr (kPlanes == 1) {
    out[0] = planes[0];
    out[1] = V::template shift_right_logical<1>(planes[0]);
    out[2] = V::template shift_right_logical<2>(planes[0]);
    out[3] = V::template shift_right_logical<3>(planes[0]);
  } else {
    const I32 even = even_pairs<V>(planes[kPlanes - 2], planes[kPlanes - 1]);
    const I32 odd = odd_pairs<V>(planes[kPlanes - 2], planes[kPlanes - 1]);
    if constexpr (kPlanes == 2) {
      out[0] = even;
      out[1] = odd;
      out[2] = V::template shift_right_logical<2>(even);
      out[3] = V::template shift_right_logical<2>(odd);
    } else {
      I32 high_even = planes[0];
      I32 high_odd = V::template shift_right_logical<1>(planes[0]);
      if constexpr (kPlanes == 4) {
        high_even = even_pairs<V>(planes[0], planes[1]);
        high_odd = odd_pairs<V>(planes[0], planes[1]);
      }
      const I32 upper = V::set1(static_cast<int32_t>(0xcccccccc)), lower = V::set1(0x33333333);
      out[0] = V::select(upper, V::template shift_left<2>(high_even), even);
      out[1] = V::select(upper, V::template shift_left<2>(high_odd), odd);
      out[2] = V::select(lower, V::template shift_right_logical<2>(even), high_even);
      out[3] = V::select(lower, V::template shift_right_logical<2>(odd), high_odd);
    }
  }
}

// Codes of kBits (5 to 8) planes: the bytes of out[j] belong to inputs j.
template <class V, int kBits>
LOWBIT_INLINE void bytes(const typename V::I32* planes, typename V::I32* out) {
  typename V::I32 high[4], low[4];
  nibbles<V, kBits - 4>(planes, high);
  nibbles<V, 4>(planes + kBits - 4, low);
  const typename V::I32 upper = V::set1(static_cast<int32_t>(0xf0f0f0f0)), lower = V::set1(0x0f0f0f0f);
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    out[i] = V::select(upper, V::template shift_left<4>(high[i]), low[i]);
    out[i + 4] = V::select(lower, V::template shift_right_logical<4>(low[i]), high[i]);
  }
}

// use(j, index) for the eight bit positions j; the low kBits bits of each byte of index are the codes.
template <class V, int kBits, class Use>
LOWBIT_INLINE void for_each_code(const typename V::I32* planes, Use use) {
  if constexpr (kBits <= 4) {
    typename V::I32 pairs[4];
    nibbles<V, kBits>(planes, pairs);
#pragma GCC unroll 8
    for (int i = 0; i < 4; ++i) {
      use(i, pairs[i]);
      use(i + 4, V::template shift_right_logical<4>(pairs[i]));
    }
  } else {
    typename V::I32 codes[8];
    bytes<V, kBits>(planes, codes);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) use(j, codes[j]);
  }
}

}  // namespace lowbit::codebook
