#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/avxvnni.h"

namespace lowbit {

const BitsKernels kBitsAvxVnni = {BitsTable<isa::AvxVnni>::product, BitsTable<isa::AvxVnni>::product_exact};

}  // namespace lowbit
