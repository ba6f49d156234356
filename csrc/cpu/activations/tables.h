// One table per instruction set; a build holds those of its architecture.
#pragma once

#include "cpu/activations/activations.h"

namespace lowbit {

extern const ActivationKernels activation_kernels_scalar;
extern const ActivationKernels activation_kernels_avx2;
extern const ActivationKernels activation_kernels_avxvnni;
extern const ActivationKernels activation_kernels_avx512;
extern const ActivationKernels activation_kernels_neon;

}  // namespace lowbit
