#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/avx2.h"

namespace lowbit {

constinit const ActivationKernels activation_kernels_avx2 = ActivationKernel<isa::Avx2>::table();

}  // namespace lowbit
