// Integer instructions by name.
#pragma once

#include "cuda/device.h"

namespace lowbit::cuda {

// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes b:a (a holds bytes 0..3); bit 3 of a
// selector nibble spreads that byte's sign instead; bits 16..31 of the selector do nothing. One PRMT.
// Not __byte_perm, whose bit 3 is undocumented, and through which the compiler sees that the upper selector
// bits do nothing: it then masks the two halves of a word of selectors apart, where one mask would serve
// both.
LOWBIT_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#ifdef LOWBIT_EMULATED
  return __byte_perm(a, b, selector);
#else
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
#endif
}

LOWBIT_DEVICE uint32_t shift_right_logical(uint32_t a, uint32_t bits) {
  return a >> bits;
}

// Any function of three bits, on 32 of them: bit (4 a + 2 b + c) of kTable is the result. One LOP3.
template <uint32_t kTable>
LOWBIT_DEVICE uint32_t logic3(uint32_t a, uint32_t b, uint32_t c) {
#ifdef LOWBIT_EMULATED
  uint32_t result = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t row = (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    if (kTable >> i & 1) result |= row;
  }
  return result;
#else
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return result;
#endif
}

// The same value, of which the compiler no longer knows where it came from: it stays in a register, and an
// address made from it is not taken apart again.
template <class T>
LOWBIT_DEVICE T in_register(T value) {
#ifndef LOWBIT_EMULATED
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
#endif
  return value;
}

}  // namespace lowbit::cuda
