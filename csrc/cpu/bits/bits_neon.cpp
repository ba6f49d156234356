#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/isa/neon.h"

namespace lowbit {

const BitsKernels kBitsNeon = BitsTable<isa::Neon>::kKernels;

}  // namespace lowbit
