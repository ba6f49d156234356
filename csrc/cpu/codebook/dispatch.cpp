#include "core/cpu_features.h"
#include "cpu/codebook/codebook.h"
#include "cpu/codebook/kernel_table.h"

namespace lowbit {

const CodebookKernels& codebook_kernels(lowbit_isa isa) {
#if defined(LOWBIT_AMX)
  if (isa == LOWBIT_ISA_AMX) {
    static const CodebookKernels with_pieces = [] {
      CodebookKernels kernels = codebook_kernels_avx512;
      kernels.pieces = &piece_kernels_amx;
      return kernels;
    }();
    return with_pieces;
  }
#endif
  switch (vectors_of(isa)) {
#if defined(__x86_64__)
    case LOWBIT_ISA_AVX2:
      return codebook_kernels_avx2;
    case LOWBIT_ISA_AVX_VNNI:
      return codebook_kernels_avxvnni;
    case LOWBIT_ISA_AVX512:
      return codebook_kernels_avx512;
#endif
    default:
      return codebook_kernels_scalar;  // AArch64 too
  }
}

}  // namespace lowbit
