#include "torch/channel.h"

namespace lowbit::torch_ops {

Channel::Channel(const Checker& check, Arguments& args, bool has_out) {
  x = args.tensor();
  weight = args.tensor();
  labels = args.tensor();
  low_rank_out = args.optional_tensor();
  low_rank_in = args.optional_tensor();
  bias = args.optional_tensor();
  in_features = args.integer();
  out_features = args.integer();
  axis = args.integer();
  const int64_t precision_number = args.integer();
  if (has_out) out = args.tensor();
  check.expect_input(x, in_features);
  precision = check.precision(precision_number);
}

lowbit_codebook_channel Channel::describe(const Checker& check) const {
  check.require(axis == 0 || axis == 1, "axis must be 0 (output channels) or 1 (input channels)");
  check.require(weight.dim() == 2, "weight must have two dimensions");
  lowbit_codebook_channel channel{};
  channel.out_features = out_features;
  channel.in_features = in_features;
  channel.axis = static_cast<int32_t>(axis);
  channel.clusters = weight.size(axis);
  if (axis == 0) {
    check.expect_float(weight, "weight", {channel.clusters, in_features});
  } else {
    check.expect_float(weight, "weight", {out_features, channel.clusters});
  }
  channel.dtype = c_dtype(weight.dtype());
  channel.weight = weight.data();
  check.require(bool(low_rank_out) == bool(low_rank_in), "low_rank_out and low_rank_in belong together");
  if (low_rank_out) {
    check.require(low_rank_in.dim() == 2, "low_rank_in must have two dimensions");
    channel.rank = low_rank_in.size(0);
    check.expect(low_rank_out, "low_rank_out", weight.dtype(), {out_features, channel.rank});
    check.expect(low_rank_in, "low_rank_in", weight.dtype(), {channel.rank, in_features});
    channel.low_rank_out = low_rank_out.data();
    channel.low_rank_in = low_rank_in.data();
  }
  return channel;
}

int32_t label_bytes(const Checker& check, const Tensor& labels) {
  switch (labels.dtype()) {
    case Dtype::kU8:
      return 1;
    case Dtype::kU16:
      return 2;
    case Dtype::kI32:
      return 4;
    default:
      check.fail("labels must be uint8, uint16 or int32; found " + labels.describe());
  }
}

}  // namespace lowbit::torch_ops
