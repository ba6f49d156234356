#include "cpu/attention/attention.h"

#include "core/cpu_features.h"
#include "cpu/attention/tables.h"

namespace lowbit {

const AttentionKernels& attention_kernels(lowbit_isa isa) {
  switch (vectors_of(isa)) {
#if defined(__x86_64__)
    case LOWBIT_ISA_AVX2:
    case LOWBIT_ISA_AVX_VNNI:
      return attention_kernels_avx2;
    case LOWBIT_ISA_AVX512:
      return attention_kernels_avx512;
#elif defined(__aarch64__)
    case LOWBIT_ISA_NEON:
      return attention_kernels_neon;
#endif
    default:
      return attention_kernels_scalar;
  }
}

}  // namespace lowbit
