// C interface of the family `planes`: weights of 1 to 8 bit planes, of which a call reads the first ones.
#include "core/cpu_features.h"
#include "cpu/bits/bits.h"
#include "cpu/bits_linear.h"
#include "cpu/checks.h"
#include "lowbit.h"

extern "C" lowbit_status lowbit_planes_linear(const lowbit_bits* weight, int32_t active_bits,
                                              const lowbit_input* x, int32_t activation_bits,
                                              const lowbit_vector* bias, lowbit_precision precision,
                                              const lowbit_output* y) {
  using namespace lowbit;
  if (const lowbit_status bad = check_not_null(weight, "weight")) return bad;
  if (const lowbit_status bad = check_bits(*weight, "weight")) return bad;
  if (const lowbit_status bad = check_range(active_bits, 1, weight->planes, "active_bits")) return bad;
  if (const lowbit_status bad = check_range(activation_bits, 0, 8, "activation_bits")) return bad;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision")) return bad;
  if (const lowbit_status bad = check_input(x, weight->in_features)) return bad;
  if (const lowbit_status bad = check_output(y, x->rows, weight->out_features)) return bad;
  if (const lowbit_status bad = check_bias(bias, weight->out_features)) return bad;
  lowbit_signs layer{};
  layer.bits = *weight;
  return bits_linear(&layer, 1, active_bits, *x, activation_bits, precision, {bias}, *y);
}

extern "C" int64_t lowbit_tile_columns(int32_t active_bits) {
  lowbit::Isa isa;
  return lowbit::active_isa(&isa) == LOWBIT_OK ? lowbit::tile_columns(isa, active_bits) : 0;
}
