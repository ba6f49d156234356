#include "cpu/attention/attention_kernel.h"
#include "cpu/attention/tables.h"
#include "cpu/isa/avx2.h"

namespace lowbit {

constinit const AttentionKernels attention_kernels_avx2 = attention::AttentionKernel<isa::Avx2>::table();

}  // namespace lowbit
