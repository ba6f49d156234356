#include "cpu/codebook/kernel_table.h"
#include "cpu/codebook/vectors256.h"
#include "cpu/isa/avxvnni.h"

namespace lowbit {
namespace {

struct Vectors : codebook::Vectors256<isa::AvxVnni, 8> {
  static LOWBIT_INLINE I32 byte_products(I32 sum, I32 u, I32 x) { return dot(sum, u, x); }
};

}  // namespace

extern const CodebookKernels codebook_kernels_avxvnni = codebook::kernel_table<Vectors>();

}  // namespace lowbit
