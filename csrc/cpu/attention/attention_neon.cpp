#include "cpu/attention/attention_kernel.h"
#include "cpu/attention/tables.h"
#include "cpu/isa/neon.h"

namespace lowbit {

constinit const AttentionKernels attention_kernels_neon = attention::AttentionKernel<isa::Neon>::table();

}  // namespace lowbit
