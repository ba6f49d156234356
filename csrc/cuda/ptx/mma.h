// Tensor-core products d = a b + c of one warp. None is volatile: they are pure, so the compiler may order
// them.
//
// Lane l holds, with g = l >> 2 and t = l & 3:
//
//   c, d    16 x 8     [i]: row g + 8 (i >> 1), column 2 t + (i & 1)
//
//   8-bit   a 16 x 32  register r, byte i: row g + 8 (r & 1), input 16 (r >> 1) + 4 t + i
//           b 32 x 8   register r, byte i: column g, input 16 r + 4 t + i
//   16-bit  a 16 x 16  register r, half i: row g + 8 (r & 1), input 8 (r >> 1) + 2 t + i
//           b 16 x 8   register r, half i: column g, input 8 r + 2 t + i
//   1-bit   a 16 x 256 register r, bit i:  row g + 8 (r & 1), input 128 (r >> 1) + 32 t + i
//           b 256 x 8  register r, bit i:  column g, input 128 r + 32 t + i
#pragma once

#include "cuda/device.h"

// The instruction's four lists of registers: d, a, b, c.
#define LOWBIT_MMA(name, kind)                                                                        \
  asm("mma.sync.aligned." name " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};" \
      : "=" kind(d[0]), "=" kind(d[1]), "=" kind(d[2]), "=" kind(d[3])                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), kind(c[0]), kind(c[1]),     \
        kind(c[2]), kind(c[3]))

namespace lowbit::cuda {

// a unsigned, b signed bytes; int32 sums wrap.
LOWBIT_DEVICE void mma_u8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
#ifdef LOWBIT_EMULATED
  emulated::mma_u8s8(d, a, b, c);
#else
  LOWBIT_MMA("m16n8k32.row.col.s32.u8.s8.s32", "r");
#endif
}

LOWBIT_DEVICE void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_u8s8(c, a, b, c);
}

LOWBIT_DEVICE void mma_s8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
#ifdef LOWBIT_EMULATED
  emulated::mma_s8s8(d, a, b, c);
#else
  LOWBIT_MMA("m16n8k32.row.col.s32.s8.s8.s32", "r");
#endif
}

LOWBIT_DEVICE void mma_s8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_s8s8(c, a, b, c);
}

// c += popcount(a & b). Native on sm_80 to sm_90 only; newer targets would call a slow emulation of it, so
// there it is a trap, and the host never picks a kernel that reaches it.
LOWBIT_DEVICE void mma_b1_and(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LOWBIT_EMULATED
  emulated::mma_b1_and(c, a, b, c);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  __trap();
#else
  int (&d)[4] = c;
  LOWBIT_MMA("m16n8k256.row.col.s32.b1.b1.s32.and.popc", "r");
#endif
}

// fp16 products, fp32 sums.
LOWBIT_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LOWBIT_EMULATED
  emulated::mma_f16(c, a, b, c);
#else
  float (&d)[4] = c;
  LOWBIT_MMA("m16n8k16.row.col.f32.f16.f16.f32", "f");
#endif
}

// bf16 products, fp32 sums.
LOWBIT_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LOWBIT_EMULATED
  emulated::mma_bf16(c, a, b, c);
#else
  float (&d)[4] = c;
  LOWBIT_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "f");
#endif
}

}  // namespace lowbit::cuda

#undef LOWBIT_MMA
