#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/avx512.h"

namespace lowbit {

const BitsKernels kBitsAvx512 = {BitsTable<isa::Avx512>::product, BitsTable<isa::Avx512>::product_exact};

}  // namespace lowbit
