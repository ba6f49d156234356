// C interface of fused siblings: layers of the families signs and planes with the same input.
#include "core/error.h"
#include "cpu/bits_linear.h"
#include "cpu/checks.h"
#include "lowbit.h"

extern "C" lowbit_status lowbit_siblings_linear(const lowbit_signs* layers, const lowbit_vector* biases,
                                                int32_t num_layers, int32_t active_bits,
                                                const lowbit_input* x, int32_t activation_bits,
                                                lowbit_precision precision, const lowbit_output* y) {
  using namespace lowbit;
  if (const lowbit_status bad = check_range(activation_bits, 0, 8, "activation_bits")) return bad;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision")) return bad;
  int64_t out_features = 0;
  if (const lowbit_status bad = check_segments(layers, num_layers, active_bits, 8, &out_features)) return bad;
  if (const lowbit_status bad = check_input(x, layers[0].bits.in_features)) return bad;
  if (const lowbit_status bad = check_output(y, x->rows, out_features)) return bad;
  for (int32_t i = 0; i < num_layers; ++i) {
    if (activation_bits != 0 && layers[i].experts != 0) {
      return fail(LOWBIT_INVALID_ARGUMENT, "activation_bits is %d; allowed: 0, as layer %d has experts",
                  activation_bits, i);
    }
    if (biases == nullptr) continue;
    if (const lowbit_status bad = check_bias(&biases[i], layers[i].bits.out_features)) return bad;
  }
  return bits_linear(layers, num_layers, active_bits, *x, activation_bits, precision, {biases, true}, *y);
}
