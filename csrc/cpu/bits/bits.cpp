#include "cpu/bits/bits.h"

namespace lowbit {

const BitsKernels& bits_kernels(lowbit_isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case LOWBIT_ISA_AVX2:
      return kBitsAvx2;
    case LOWBIT_ISA_AVX_VNNI:
      return kBitsAvxVnni;
    case LOWBIT_ISA_AVX512:
      return kBitsAvx512;
    case LOWBIT_ISA_AMX:
      return kBitsAmx;
#elif defined(__aarch64__)
    case LOWBIT_ISA_NEON:
      return kBitsNeon;
#endif
    default:
      return kBitsScalar;
  }
}

}  // namespace lowbit
