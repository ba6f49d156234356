// C interface of the family `signs`: BinaryMoS, OneBit and signs with group scales, alone or as fused
// segments.
#include <cstdio>

#include "core/error.h"
#include "cpu/bits_linear.h"
#include "cpu/checks.h"
#include "lowbit.h"

namespace lowbit {
namespace {

lowbit_status check_out_scales(const lowbit_signs& segment, const char* name) {
  if (segment.experts == 0) return LOWBIT_OK;
  if (segment.out_scales == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d experts, but out_scales is a null pointer", name,
                segment.experts);
  }
  if (segment.experts > 1 && segment.out_scales_stride < segment.bits.out_features) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has out_scales_stride %lld; allowed: at least its %lld outputs",
                name, static_cast<long long>(segment.out_scales_stride),
                static_cast<long long>(segment.bits.out_features));
  }
  return LOWBIT_OK;
}

}  // namespace
}  // namespace lowbit

extern "C" lowbit_status lowbit_signs_linear(const lowbit_signs* segments, int32_t num_segments,
                                             const lowbit_input* x, const lowbit_vector* bias,
                                             lowbit_precision precision, const lowbit_output* y) {
  using namespace lowbit;
  if (const lowbit_status bad = check_not_null(segments, "segments")) return bad;
  if (const lowbit_status bad = check_range(num_segments, 1, INT32_MAX, "num_segments")) return bad;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision")) return bad;
  int64_t out_features = 0;
  for (int32_t s = 0; s < num_segments; ++s) {
    char name[32];
    std::snprintf(name, sizeof name, "segment %d", s);
    if (const lowbit_status bad = check_signs(segments[s], name)) return bad;
    if (const lowbit_status bad = check_out_scales(segments[s], name)) return bad;
    if (segments[s].bits.in_features != segments[0].bits.in_features) {
      return fail(LOWBIT_INVALID_ARGUMENT, "%s has %lld inputs; allowed: %lld, as segment 0", name,
                  static_cast<long long>(segments[s].bits.in_features),
                  static_cast<long long>(segments[0].bits.in_features));
    }
    out_features += segments[s].bits.out_features;
  }
  if (const lowbit_status bad = check_input(x, segments[0].bits.in_features)) return bad;
  if (const lowbit_status bad = check_output(y, x->rows, out_features)) return bad;
  if (const lowbit_status bad = check_bias(bias, out_features)) return bad;
  return bits_linear(segments, num_segments, 1, *x, 0, precision, bias, *y);
}
