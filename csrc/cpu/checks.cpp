#include "cpu/checks.h"

#include <cstdio>

#include "core/error.h"

namespace lowbit {
namespace {

using Integer = long long;  // what printf's %lld takes

lowbit_status check_out_scales(const lowbit_signs& segment, const char* name) noexcept {
  if (segment.experts == 0) return LOWBIT_OK;
  if (segment.out_scales == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d experts, but out_scales is a null pointer", name,
                segment.experts);
  }
  if (segment.experts > 1 && segment.out_scales_stride < segment.bits.out_features) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has out_scales_stride %lld; allowed: at least its %lld outputs",
                name, Integer{segment.out_scales_stride}, Integer{segment.bits.out_features});
  }
  return LOWBIT_OK;
}

}  // namespace

lowbit_status check_not_null(const void* pointer, const char* name) noexcept {
  if (pointer != nullptr) return LOWBIT_OK;
  return fail(LOWBIT_INVALID_ARGUMENT, "%s is a null pointer", name);
}

lowbit_status check_range(int64_t value, int64_t smallest, int64_t largest, const char* name) noexcept {
  if (smallest <= value && value <= largest) return LOWBIT_OK;
  return fail(LOWBIT_INVALID_ARGUMENT, "%s is %lld; allowed: %lld to %lld", name, Integer{value},
              Integer{smallest}, Integer{largest});
}

lowbit_status check_dtype(lowbit_dtype dtype, const char* name) noexcept {
  if (dtype == LOWBIT_F32 || dtype == LOWBIT_F16 || dtype == LOWBIT_BF16) return LOWBIT_OK;
  return fail(LOWBIT_INVALID_ARGUMENT, "%s has dtype %d; allowed: 0 (fp32), 1 (fp16), 2 (bf16)", name,
              static_cast<int>(dtype));
}

lowbit_status check_bits(const lowbit_bits& bits, const char* name) noexcept {
  if (bits.out_features < 1 || bits.in_features < 1) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %lld outputs and %lld inputs; allowed: 1 or more of each",
                name, Integer{bits.out_features}, Integer{bits.in_features});
  }
  if (bits.planes < 1 || bits.planes > 8) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d planes; allowed: 1 to 8", name, bits.planes);
  }
  if (bits.tiles == nullptr) return fail(LOWBIT_INVALID_ARGUMENT, "%s: tiles is a null pointer", name);
  if (bits.group_size != -1 &&
      (bits.group_size < 1 || bits.group_size > INT32_MAX || bits.group_size % LOWBIT_BLOCK_INPUTS != 0)) {
    return fail(LOWBIT_INVALID_ARGUMENT,
                "%s has group_size %lld; allowed: -1 or a positive multiple of %d below 2^31", name,
                Integer{bits.group_size}, LOWBIT_BLOCK_INPUTS);
  }
  return bits.scales == nullptr ? LOWBIT_OK : check_dtype(bits.scales_dtype, name);
}

lowbit_status check_signs(const lowbit_signs& segment, const char* name) noexcept {
  if (const lowbit_status bad = check_bits(segment.bits, name)) return bad;
  if (segment.bits.planes != 1) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d planes; allowed: 1", name, segment.bits.planes);
  }
  if (segment.experts < 0) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d experts; allowed: 0 or more", name, segment.experts);
  }
  if (segment.experts == 0) return LOWBIT_OK;
  if (const lowbit_status bad = check_dtype(segment.dtype, name)) return bad;
  if (segment.in_scales == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d experts, but in_scales is a null pointer", name,
                segment.experts);
  }
  if (segment.experts > 1 && segment.router == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "%s has %d experts, but router is a null pointer", name,
                segment.experts);
  }
  return LOWBIT_OK;
}

lowbit_status check_segments(const lowbit_signs* segments, int32_t num_segments, int32_t active_bits,
                             int32_t most_planes, int64_t* out_features) noexcept {
  if (const lowbit_status bad = check_not_null(segments, "segments")) return bad;
  if (const lowbit_status bad = check_range(num_segments, 1, INT32_MAX, "num_segments")) return bad;
  for (int32_t s = 0; s < num_segments; ++s) {
    const lowbit_signs& segment = segments[s];
    char name[32];
    std::snprintf(name, sizeof name, "segment %d", s);
    const bool planes = most_planes > 1 && segment.experts == 0;
    if (const lowbit_status bad = planes ? check_bits(segment.bits, name) : check_signs(segment, name)) {
      return bad;
    }
    if (active_bits < 1 || active_bits > segment.bits.planes) {
      return fail(LOWBIT_INVALID_ARGUMENT, "active_bits is %d; allowed: 1 to the %d planes of %s",
                  active_bits, segment.bits.planes, name);
    }
    if (const lowbit_status bad = check_out_scales(segment, name)) return bad;
    if (segment.bits.in_features != segments[0].bits.in_features) {
      return fail(LOWBIT_INVALID_ARGUMENT, "%s has %lld inputs; allowed: %lld, as segment 0", name,
                  Integer{segment.bits.in_features}, Integer{segments[0].bits.in_features});
    }
    *out_features += segment.bits.out_features;
  }
  return LOWBIT_OK;
}

lowbit_status check_input(const lowbit_input* x, int64_t in_features) noexcept {
  if (const lowbit_status bad = check_not_null(x, "x")) return bad;
  if (const lowbit_status bad = check_dtype(x->dtype, "x")) return bad;
  if (x->rows < 0) {
    return fail(LOWBIT_INVALID_ARGUMENT, "x has %lld rows; allowed: 0 or more", Integer{x->rows});
  }
  if (x->cols != in_features) {
    return fail(LOWBIT_INVALID_ARGUMENT, "x has %lld columns; allowed: %lld, the in_features of the weight",
                Integer{x->cols}, Integer{in_features});
  }
  return x->rows == 0 ? LOWBIT_OK : check_not_null(x->data, "x.data");
}

lowbit_status check_output(const lowbit_output* y, int64_t rows, int64_t out_features) noexcept {
  if (const lowbit_status bad = check_not_null(y, "y")) return bad;
  if (const lowbit_status bad = check_dtype(y->dtype, "y")) return bad;
  if (y->rows != rows || y->cols != out_features) {
    return fail(LOWBIT_INVALID_ARGUMENT, "y is [%lld, %lld]; allowed: [%lld, %lld]", Integer{y->rows},
                Integer{y->cols}, Integer{rows}, Integer{out_features});
  }
  // Rows that overlap would be written by several threads.
  if (rows > 1 && y->row_stride < y->cols && y->row_stride > -y->cols) {
    return fail(LOWBIT_INVALID_ARGUMENT, "y has row_stride %lld; allowed: at least its %lld columns",
                Integer{y->row_stride}, Integer{y->cols});
  }
  return rows == 0 ? LOWBIT_OK : check_not_null(y->data, "y.data");
}

lowbit_status check_bias(const lowbit_vector* bias, int64_t out_features) noexcept {
  if (bias == nullptr || bias->data == nullptr) return LOWBIT_OK;
  if (bias->size != out_features) {
    return fail(LOWBIT_INVALID_ARGUMENT, "bias has %lld values; allowed: %lld", Integer{bias->size},
                Integer{out_features});
  }
  return check_dtype(bias->dtype, "bias");
}

}  // namespace lowbit
