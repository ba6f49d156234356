#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/avx2.h"

namespace lowbit {

const BitsKernels kBitsAvx2 = {BitsTable<isa::Avx2>::product, BitsTable<isa::Avx2>::product_exact};

}  // namespace lowbit
