#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/bits/lookup256.h"
#include "cpu/isa/avx2.h"

namespace lowbit {

// Of a single plane, look-ups beat byte products for any number of tokens: benchmarks/NOTES.md.
const BitsKernels kBitsAvx2 = BitsTable<isa::Avx2, LookupProduct<Lookup256<isa::Avx2>>>::kKernels;

}  // namespace lowbit
