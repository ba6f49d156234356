#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/neon.h"

namespace lowbit {

using Table = BitsTable<isa::Neon>;

const BitsKernels kBitsNeon = {Table::product, Table::product_exact, Table::least_tiles};

}  // namespace lowbit
