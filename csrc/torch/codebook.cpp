// lowbit::codebook_{channel,scalar,vector}_linear: check and unpack the arguments, then call the C function.
#include "torch/arguments.h"
#include "torch/channel.h"
#include "torch/compute.h"
#include "torch/operators.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {
namespace {

constexpr int64_t kVectorEntries = 256;

}  // namespace

template <bool kOut>
void codebook_channel_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Checker check("codebook_channel_linear");
  Arguments args(stack);
  const Channel all(check, args, kOut);
  lowbit_codebook_channel channel = all.describe(check);
  channel.label_bytes = label_bytes(check, all.labels);
  check.expect(all.labels, "labels", all.labels.dtype(),
               {all.axis == 0 ? all.out_features : all.in_features});
  channel.labels = all.labels.data();
  compute(check, args, all.x, all.bias, all.out, all.out_features,
          [channel, precision = all.precision](auto* input, auto* bias_view, auto* y) {
            return lowbit_codebook_channel_linear(&channel, input, bias_view, precision, y);
          });
}

template <bool kOut>
void codebook_scalar_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const ScalarArguments all(args, kOut);

  const Checker check("codebook_scalar_linear");
  check.expect_input(all.x, all.in_features);
  check.require(all.weight.dim() == 3 && all.weight.size(0) >= 1 && all.weight.size(0) <= 8,
                "weight must be [bits, out_features, ceil(in_features / 8)] with 1 to 8 bits");
  const int64_t bits = all.weight.size(0);
  const int64_t out_features = all.weight.size(1);
  check.expect(all.weight, "weight", Dtype::kU8, {bits, out_features, ceil_div(all.in_features, 8)});
  check.expect_float(all.tables, "tables", {out_features, int64_t{1} << bits});
  lowbit_codebook_scalar scalar{};
  scalar.out_features = out_features;
  scalar.in_features = all.in_features;
  scalar.bits = static_cast<int32_t>(bits);
  scalar.weight = static_cast<const uint8_t*>(all.weight.data());
  scalar.tables = all.tables.data();
  scalar.tables_dtype = c_dtype(all.tables.dtype());
  all.outliers.describe(check, scalar);
  if (all.outliers.offsets) {
    check.require(scalar.outlier_offsets[out_features] == all.outliers.columns.size(0),
                  "the last of outlier_offsets must be the number of outliers");
  }
  const lowbit_precision precision = check.precision(all.precision);
  compute(check, args, all.x, all.bias, all.out, out_features,
          [scalar, precision](auto* input, auto* bias_view, auto* y) {
            return lowbit_codebook_scalar_linear(&scalar, input, bias_view, precision, y);
          });
}

template <bool kOut>
void codebook_vector_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const VectorArguments all(args, kOut);

  const Checker check("codebook_vector_linear");
  check.expect_input(all.x, all.in_features);
  check.require(all.weight.dim() == 3,
                "weight must be [codebooks, out_features, ceil(in_features / vector_size)]");
  check.require(all.codebooks.dim() == 3 && all.codebooks.size(2) >= 1,
                "codebooks must be [codebooks, 256, vector_size]");
  const int64_t count = all.weight.size(0);
  const int64_t out_features = all.weight.size(1);
  const int64_t vector_size = all.codebooks.size(2);
  check.expect(all.weight, "weight", Dtype::kU8,
               {count, out_features, ceil_div(all.in_features, vector_size)});
  check.expect_float(all.codebooks, "codebooks", {count, kVectorEntries, vector_size});
  check.expect(all.out_scales, "out_scales", all.codebooks.dtype(), {out_features});
  lowbit_codebook_vector vector{};
  vector.out_features = out_features;
  vector.in_features = all.in_features;
  vector.num_codebooks = static_cast<int32_t>(count);
  vector.vector_size = static_cast<int32_t>(vector_size);
  vector.codes = static_cast<const uint8_t*>(all.weight.data());
  vector.codebooks = all.codebooks.data();
  vector.out_scales = all.out_scales.data();
  vector.dtype = c_dtype(all.codebooks.dtype());
  const lowbit_precision precision = check.precision(all.precision);
  compute(check, args, all.x, all.bias, all.out, out_features,
          [vector, precision](auto* input, auto* bias_view, auto* y) {
            return lowbit_codebook_vector_linear(&vector, input, bias_view, precision, y);
          });
}

LOWBIT_INSTANTIATE(codebook_channel_linear)
LOWBIT_INSTANTIATE(codebook_scalar_linear)
LOWBIT_INSTANTIATE(codebook_vector_linear)

}  // namespace lowbit::torch_ops
