#include "cpu/bits/bits.h"

#include "core/cpu_features.h"

namespace lowbit {

const BitsKernels& bits_kernels(lowbit_isa isa) {
#if defined(LOWBIT_AMX)
  if (isa == LOWBIT_ISA_AMX) return kBitsAmx;
#endif
  switch (vectors_of(isa)) {
#if defined(__x86_64__)
    case LOWBIT_ISA_AVX2:
      return kBitsAvx2;
    case LOWBIT_ISA_AVX_VNNI:
      return kBitsAvxVnni;
    case LOWBIT_ISA_AVX512:
      return kBitsAvx512;
#elif defined(__aarch64__)
    case LOWBIT_ISA_NEON:
      return kBitsNeon;
#endif
    default:
      return kBitsScalar;
  }
}

int64_t tile_columns([[maybe_unused]] lowbit_isa isa, [[maybe_unused]] int active_planes) {
#if defined(LOWBIT_AMX)
  if (isa == LOWBIT_ISA_AMX) return tile_columns_amx(active_planes);
#endif
  return 0;
}

}  // namespace lowbit
