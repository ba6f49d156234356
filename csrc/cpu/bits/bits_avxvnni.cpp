#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/bits/lookup256.h"
#include "cpu/isa/avxvnni.h"

namespace lowbit {

// Of a single plane, look-ups beat byte products for any number of tokens: benchmarks/NOTES.md.
const BitsKernels kBitsAvxVnni = BitsTable<isa::AvxVnni, LookupProduct<Lookup256<isa::AvxVnni>>>::kKernels;

}  // namespace lowbit
