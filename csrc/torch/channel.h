// What the operator codebook_channel_linear does before its kernel on every device: arguments, checks,
// description.
#pragma once

#include "torch/tensor.h"

namespace lowbit::torch_ops {

struct Channel {
  Tensor x, weight, labels, low_rank_out, low_rank_in, bias, out;
  int64_t in_features, out_features;
  int64_t axis;
  lowbit_precision precision;

  Channel(const Checker& check, Arguments& args, bool has_out);

  // All but the labels, whose layout differs.
  lowbit_codebook_channel describe(const Checker& check) const;
};

// Bytes of one label: 1, 2 or 4.
int32_t label_bytes(const Checker& check, const Tensor& labels);

}  // namespace lowbit::torch_ops
