#include "torch/mix.h"

namespace lowbit::torch_ops {
namespace {

void expect_per_segment(const Checker& check, const Tensor& tensor, const char* name, int64_t segments,
                        int64_t experts, int64_t in_features) {
  if (segments == 1 && tensor.dim() == 2) {
    check.expect_float(tensor, name, {experts, in_features});
  } else {
    check.expect_float(tensor, name, {segments, experts, in_features});
  }
}

}  // namespace

void Mix::check(const Checker& check, int64_t segments, int64_t in_features, int64_t out_features) const {
  if (!in_scales) {
    check.require(!out_scales && !router, "router and out_scales need in_scales");
    return;
  }
  check.require(bool(out_scales), "in_scales needs out_scales");
  check.require(in_scales.dim() >= 2,
                "in_scales must be [experts, in_features] or [segments, experts, in_features]");
  check.require(experts() >= 1, "in_scales must have at least one expert");
  check.require(experts() == 1 || router, "more than one expert needs a router");
  expect_per_segment(check, in_scales, "in_scales", segments, experts(), in_features);
  if (router) expect_per_segment(check, router, "router", segments, experts(), in_features);
  check.expect_float(out_scales, "out_scales", {experts(), out_features});
  check.require(out_scales.dtype() == in_scales.dtype() && (!router || router.dtype() == in_scales.dtype()),
                "router, in_scales and out_scales must have one dtype");
}

void check_segments(const Checker& check, std::vector<int64_t>& segments, int64_t out_features) {
  if (segments.empty()) segments.push_back(out_features);
  int64_t total = 0;
  for (int64_t n : segments) {
    check.require(n >= 1, "segments must be positive");
    total += n;
  }
  check.require(total == out_features, "segments must add up to out_features");
}

}  // namespace lowbit::torch_ops
