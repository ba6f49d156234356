// lowbit::codebook_{channel,scalar,vector}_linear: check and unpack the arguments, then call the C function.
#include "torch/operators.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {
namespace {

constexpr int64_t kVectorEntries = 256;

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

}  // namespace

template <bool kOut>
void codebook_channel_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor x = args.tensor();
  const Tensor weight = args.tensor();
  const Tensor labels = args.tensor();
  const Tensor low_rank_out = args.optional_tensor();
  const Tensor low_rank_in = args.optional_tensor();
  const Tensor bias = args.optional_tensor();
  const int64_t in_features = args.integer();
  const int64_t out_features = args.integer();
  const int64_t axis = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  const Checker check("codebook_channel_linear");
  check.expect_input(x, in_features);
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
  channel.label_bytes = label_bytes(check, labels);
  check.expect(labels, "labels", labels.dtype(), {axis == 0 ? out_features : in_features});
  channel.labels = labels.data();
  check.require(bool(low_rank_out) == bool(low_rank_in), "low_rank_out and low_rank_in belong together");
  if (low_rank_out) {
    check.require(low_rank_in.dim() == 2, "low_rank_in must have two dimensions");
    channel.rank = low_rank_in.size(0);
    check.expect(low_rank_out, "low_rank_out", weight.dtype(), {out_features, channel.rank});
    check.expect(low_rank_in, "low_rank_in", weight.dtype(), {channel.rank, in_features});
    channel.low_rank_out = low_rank_out.data();
    channel.low_rank_in = low_rank_in.data();
  }
  const lowbit_precision precision = check.precision(precision_number);
  compute(check, args, x, bias, out, out_features, [&](auto* input, auto* bias_view, auto* y) {
    return lowbit_codebook_channel_linear(&channel, input, bias_view, precision, y);
  });
}

template <bool kOut>
void codebook_scalar_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor x = args.tensor();
  const Tensor weight = args.tensor();
  const Tensor tables = args.tensor();
  const Tensor outlier_offsets = args.optional_tensor();
  const Tensor outlier_columns = args.optional_tensor();
  const Tensor outlier_values = args.optional_tensor();
  const Tensor bias = args.optional_tensor();
  const int64_t in_features = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  const Checker check("codebook_scalar_linear");
  check.expect_input(x, in_features);
  check.require(weight.dim() == 3 && weight.size(0) >= 1 && weight.size(0) <= 8,
                "weight must be [bits, out_features, ceil(in_features / 8)] with 1 to 8 bits");
  const int64_t bits = weight.size(0);
  const int64_t out_features = weight.size(1);
  check.expect(weight, "weight", Dtype::kU8, {bits, out_features, ceil_div(in_features, 8)});
  check.expect_float(tables, "tables", {out_features, int64_t{1} << bits});
  lowbit_codebook_scalar scalar{};
  scalar.out_features = out_features;
  scalar.in_features = in_features;
  scalar.bits = static_cast<int32_t>(bits);
  scalar.weight = static_cast<const uint8_t*>(weight.data());
  scalar.tables = tables.data();
  scalar.tables_dtype = c_dtype(tables.dtype());
  check.require(
      bool(outlier_offsets) == bool(outlier_columns) && bool(outlier_offsets) == bool(outlier_values),
      "outlier_offsets, outlier_columns and outlier_values belong together");
  if (outlier_offsets) {
    check.require(outlier_columns.dim() == 1, "outlier_columns must have one dimension");
    const int64_t count = outlier_columns.size(0);
    check.expect(outlier_offsets, "outlier_offsets", Dtype::kI32, {out_features + 1});
    check.expect(outlier_columns, "outlier_columns", Dtype::kI32, {count});
    check.expect_float(outlier_values, "outlier_values", {count});
    scalar.outlier_offsets = static_cast<const int32_t*>(outlier_offsets.data());
    scalar.outlier_columns = static_cast<const int32_t*>(outlier_columns.data());
    scalar.outlier_values = outlier_values.data();
    scalar.outlier_values_dtype = c_dtype(outlier_values.dtype());
    check.require(scalar.outlier_offsets[out_features] == count,
                  "the last of outlier_offsets must be the number of outliers");
  }
  const lowbit_precision precision = check.precision(precision_number);
  compute(check, args, x, bias, out, out_features, [&](auto* input, auto* bias_view, auto* y) {
    return lowbit_codebook_scalar_linear(&scalar, input, bias_view, precision, y);
  });
}

template <bool kOut>
void codebook_vector_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor x = args.tensor();
  const Tensor weight = args.tensor();
  const Tensor codebooks = args.tensor();
  const Tensor out_scales = args.tensor();
  const Tensor bias = args.optional_tensor();
  const int64_t in_features = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  const Checker check("codebook_vector_linear");
  check.expect_input(x, in_features);
  check.require(weight.dim() == 3,
                "weight must be [codebooks, out_features, ceil(in_features / vector_size)]");
  check.require(codebooks.dim() == 3 && codebooks.size(2) >= 1,
                "codebooks must be [codebooks, 256, vector_size]");
  const int64_t count = weight.size(0);
  const int64_t out_features = weight.size(1);
  const int64_t vector_size = codebooks.size(2);
  check.expect(weight, "weight", Dtype::kU8, {count, out_features, ceil_div(in_features, vector_size)});
  check.expect_float(codebooks, "codebooks", {count, kVectorEntries, vector_size});
  check.expect(out_scales, "out_scales", codebooks.dtype(), {out_features});
  lowbit_codebook_vector vector{};
  vector.out_features = out_features;
  vector.in_features = in_features;
  vector.num_codebooks = static_cast<int32_t>(count);
  vector.vector_size = static_cast<int32_t>(vector_size);
  vector.codes = static_cast<const uint8_t*>(weight.data());
  vector.codebooks = codebooks.data();
  vector.out_scales = out_scales.data();
  vector.dtype = c_dtype(codebooks.dtype());
  const lowbit_precision precision = check.precision(precision_number);
  compute(check, args, x, bias, out, out_features, [&](auto* input, auto* bias_view, auto* y) {
    return lowbit_codebook_vector_linear(&vector, input, bias_view, precision, y);
  });
}

LOWBIT_INSTANTIATE(codebook_channel_linear)
LOWBIT_INSTANTIATE(codebook_scalar_linear)
LOWBIT_INSTANTIATE(codebook_vector_linear)

}  // namespace lowbit::torch_ops
