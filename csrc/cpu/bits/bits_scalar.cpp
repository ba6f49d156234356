#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/scalar.h"

namespace lowbit {

using Table = BitsTable<isa::Scalar>;

const BitsKernels kBitsScalar = {Table::product, Table::product_exact, Table::least_tiles};

}  // namespace lowbit
