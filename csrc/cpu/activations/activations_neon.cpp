#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/neon.h"

namespace lowbit {

constinit const ActivationKernels activation_kernels_neon = ActivationKernel<isa::Neon>::table();

}  // namespace lowbit
