// C interface of the family `signs`: BinaryMoS, OneBit and signs with group scales, alone or as fused
// segments.
#include "cpu/bits_linear.h"
#include "cpu/checks.h"
#include "lowbit.h"

extern "C" lowbit_status lowbit_signs_linear(const lowbit_signs* segments, int32_t num_segments,
                                             const lowbit_input* x, const lowbit_vector* bias,
                                             lowbit_precision precision, const lowbit_output* y) {
  using namespace lowbit;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision")) return bad;
  int64_t out_features = 0;
  if (const lowbit_status bad = check_segments(segments, num_segments, 1, 1, &out_features)) return bad;
  if (const lowbit_status bad = check_input(x, segments[0].bits.in_features)) return bad;
  if (const lowbit_status bad = check_output(y, x->rows, out_features)) return bad;
  if (const lowbit_status bad = check_bias(bias, out_features)) return bad;
  return bits_linear(segments, num_segments, 1, *x, 0, precision, {bias}, *y);
}
