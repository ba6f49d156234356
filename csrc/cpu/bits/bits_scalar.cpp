#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/scalar.h"

namespace lowbit {

const BitsKernels kBitsScalar = BitsTable<isa::Scalar>::kKernels;

}  // namespace lowbit
