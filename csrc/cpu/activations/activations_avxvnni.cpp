#include "cpu/activations/activation_kernel.h"
#include "cpu/activations/tables.h"
#include "cpu/isa/avxvnni.h"

namespace lowbit {

constinit const ActivationKernels activation_kernels_avxvnni = ActivationKernel<isa::AvxVnni>::table();

}  // namespace lowbit
