// Rounding mode and flush-to-zero state of the calling thread.
//
// Hosts may set them (torch.set_flush_denormal). Workers take over the caller's, otherwise a row's last bits
// would depend on the thread that computed it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit {

inline uint64_t fp_control() {
#if defined(__x86_64__)
  return _mm_getcsr() & ~0x3fu;  // without the sticky exception flags
#elif defined(__aarch64__)
  uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
#else
  return 0;
#endif
}

inline void set_fp_control([[maybe_unused]] uint64_t value) {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(value));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(value));
#endif
}

}  // namespace lowbit
