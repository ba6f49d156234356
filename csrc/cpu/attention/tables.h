// One table of functions per instruction set, defined in attention_<isa>.cpp.
#pragma once

#include "cpu/attention/attention.h"

namespace lowbit {

extern const AttentionKernels attention_kernels_scalar;
#if defined(__x86_64__)
extern const AttentionKernels attention_kernels_avx2;
extern const AttentionKernels attention_kernels_avx512;
#elif defined(__aarch64__)
extern const AttentionKernels attention_kernels_neon;
#endif

}  // namespace lowbit
