#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/avx512.h"

namespace lowbit {

template <>
struct Octets<isa::Avx512> {
  static LOWBIT_INLINE __m512 load(const float* a, const float* b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
  }
  static LOWBIT_INLINE void sums(__m512i totals, int32_t* out) {
    __m512i sum = _mm512_add_epi32(totals, _mm512_shuffle_epi32(totals, _MM_PERM_BADC));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_i64x2(sum, sum, 0xb1));
    out[0] = _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
    out[1] = _mm_cvtsi128_si32(_mm512_extracti32x4_epi32(sum, 2));
  }
};

constinit const ActivationKernels activation_kernels_avx512 = ActivationKernel<isa::Avx512>::table();

}  // namespace lowbit
