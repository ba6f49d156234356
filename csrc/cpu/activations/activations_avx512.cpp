#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/avx512.h"

namespace lowbit {

template <>
struct Octets<isa::Avx512> {
  static LOWBIT_INLINE __m512 load(const float* a, const float* b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
  }
};

constinit const ActivationKernels activation_kernels_avx512 = ActivationKernel<isa::Avx512>::table();

}  // namespace lowbit
