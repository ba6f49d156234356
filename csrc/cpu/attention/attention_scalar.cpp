#include "cpu/attention/attention_kernel.h"
#include "cpu/attention/tables.h"
#include "cpu/isa/scalar.h"

namespace lowbit {

constinit const AttentionKernels attention_kernels_scalar = attention::AttentionKernel<isa::Scalar>::table();

}  // namespace lowbit
