#include "cpu/attention/attention_kernel.h"
#include "cpu/attention/tables.h"
#include "cpu/isa/avx512.h"

namespace lowbit {

constinit const AttentionKernels attention_kernels_avx512 = attention::AttentionKernel<isa::Avx512>::table();

}  // namespace lowbit
