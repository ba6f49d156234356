// Router and scales of BinaryMoS or OneBit as the operator signs_linear takes them, for one or several
// segments.
#pragma once

#include "torch/tensor.h"

namespace lowbit::torch_ops {

struct Mix {
  Tensor router, in_scales, out_scales;

  int64_t experts() const { return in_scales ? in_scales.size(-2) : 0; }
  lowbit_dtype dtype() const { return in_scales ? c_dtype(in_scales.dtype()) : LOWBIT_F32; }

  void check(const Checker& check, int64_t segments, int64_t in_features, int64_t out_features) const;

  // What belongs to segment s, whose rows begin at `row`; with one expert there is no router.
  const void* router_of(int64_t s, int64_t in_features) const {
    return experts() > 1 ? router.bytes() + s * bytes_of_segment(in_features) : nullptr;
  }
  const void* in_scales_of(int64_t s, int64_t in_features) const {
    return in_scales.bytes() + s * bytes_of_segment(in_features);
  }
  const void* out_scales_from(int64_t row) const { return out_scales.bytes() + row * element_size(dtype()); }

 private:
  int64_t bytes_of_segment(int64_t in_features) const {
    return experts() * in_features * element_size(dtype());
  }
};

// No segments are one of all rows; else they must add up.
void check_segments(const Checker& check, std::vector<int64_t>& segments, int64_t out_features);

}  // namespace lowbit::torch_ops
