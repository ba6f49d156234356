#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/scalar.h"

namespace lowbit {

constinit const ActivationKernels activation_kernels_scalar = ActivationKernel<isa::Scalar>::table();

}  // namespace lowbit
