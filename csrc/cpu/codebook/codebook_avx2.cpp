#include "cpu/codebook/kernel_table.h"
#include "cpu/codebook/vectors256.h"
#include "cpu/isa/avx2.h"

namespace lowbit {
namespace {

// Digits of 7 bits: vpmaddubsw adds two products in 16 bits, which 2 * 127 * 127 fits and 2 * 255 * 127 does
// not.
struct Vectors : codebook::Vectors256<isa::Avx2, 7> {
  static LOWBIT_INLINE I32 byte_products(I32 sum, I32 u, I32 x) {
    return add(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1)));
  }
};

}  // namespace

extern const CodebookKernels codebook_kernels_avx2 = codebook::kernel_table<Vectors>();

}  // namespace lowbit
