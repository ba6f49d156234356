#include "cpu/activations/activations.h"

#include "core/cpu_features.h"
#include "cpu/activations/tables.h"

namespace lowbit {

const ActivationKernels& activation_kernels(lowbit_isa isa) {
  switch (vectors_of(isa)) {
#if defined(__x86_64__)
    case LOWBIT_ISA_AVX2:
      return activation_kernels_avx2;
    case LOWBIT_ISA_AVX_VNNI:
      return activation_kernels_avxvnni;
    case LOWBIT_ISA_AVX512:
      return activation_kernels_avx512;
#elif defined(__aarch64__)
    case LOWBIT_ISA_NEON:
      return activation_kernels_neon;
#endif
    default:
      return activation_kernels_scalar;
  }
}

CodeFormat code_format(lowbit_precision precision, int32_t activation_bits, int64_t in_features) {
  const int64_t blocks = (in_features + LOWBIT_BLOCK_INPUTS - 1) / LOWBIT_BLOCK_INPUTS;
  // -255..255 does not fit a byte: split into -16..15 and 0..15.
  if (activation_bits == 8) return {8, 255, 2, 4, in_features, blocks, blocks};
  if (activation_bits > 0) {
    return {activation_bits, (1 << activation_bits) - 1, 1, 0, in_features, blocks, blocks};
  }
  // 32639 = 127 * 256 + 127: the largest value of which both halves fit s8.
  if (precision == LOWBIT_HIGH) return {0, 32639, 2, 8, in_features, blocks, blocks};
  return {0, 127, 1, 0, in_features, blocks, 128 / LOWBIT_BLOCK_INPUTS};
}

}  // namespace lowbit
