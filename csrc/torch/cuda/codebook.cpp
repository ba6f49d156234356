// lowbit::codebook_{channel,scalar,vector}_linear on GPUs: check and unpack the arguments, then call the C
// function.
#include "torch/arguments.h"
#include "torch/channel.h"
#include "torch/cuda/device.h"
#include "torch/cuda/packed.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {

// With axis 1 the labels are int32 [K + clusters + 1 + K]: the labels themselves, then the inputs in their
// order as lowbit_cuda_order_codebook_channel writes it.
template <bool kOut>
void codebook_channel_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Checker check("codebook_channel_linear");
  Arguments args(stack);
  const Channel all(check, args, kOut);
  const Gpu gpu(check, all.x);
  gpu.require_here({all.x, all.weight, all.labels, all.low_rank_out, all.low_rank_in, all.bias, all.out});
  lowbit_cuda_codebook_channel weight{all.describe(check), nullptr};
  lowbit_codebook_channel& channel = weight.canonical;
  channel.label_bytes = label_bytes(check, all.labels);
  channel.labels = all.labels.data();
  if (all.axis == 0) {
    check.expect(all.labels, "labels", all.labels.dtype(), {all.out_features});
  } else {
    check.expect(all.labels, "labels", Dtype::kI32, {2 * all.in_features + channel.clusters + 1});
    weight.order = static_cast<const int32_t*>(all.labels.data()) + all.in_features;
  }
  compute_on(
      gpu, check, args, all.x, all.bias, all.out, all.out_features,
      [&](int64_t tokens, size_t* bytes) {
        return lowbit_cuda_codebook_channel_workspace(gpu.description(), &weight, tokens, all.precision,
                                                      bytes);
      },
      [&](auto* input, auto* bias_view, auto* y, void* memory, size_t bytes) {
        return lowbit_cuda_codebook_channel_linear(gpu.description(), &weight, input, bias_view,
                                                   all.precision, y, memory, bytes, gpu.stream());
      });
}

template <bool kOut>
void codebook_scalar_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const ScalarArguments all(args, kOut);

  const Checker check("codebook_scalar_linear");
  Gpu gpu(check, all.x);
  gpu.require_here({all.x, all.weight, all.tables, all.outliers.offsets, all.outliers.columns,
                    all.outliers.values, all.bias, all.out});
  check.expect_input(all.x, all.in_features);
  lowbit_cuda_codebook_scalar weight = describe_scalar(check, all.tables, all.in_features);
  check.expect(all.weight, "weight", Dtype::kU8, {scalar_words(check, weight), kWordBytes});
  weight.packed = all.weight.data();
  all.outliers.describe(check, weight);
  const lowbit_precision precision = check.precision(all.precision);
  gpu.lend_matmul(all.x.rows());
  compute_on(
      gpu, check, args, all.x, all.bias, all.out, weight.out_features,
      [&](int64_t tokens, size_t* bytes) {
        return lowbit_cuda_codebook_scalar_workspace(gpu.description(), &weight, tokens, precision, bytes);
      },
      [&](auto* input, auto* bias_view, auto* y, void* memory, size_t bytes) {
        return lowbit_cuda_codebook_scalar_linear(gpu.description(), &weight, input, bias_view, precision, y,
                                                  memory, bytes, gpu.stream());
      });
}

template <bool kOut>
void codebook_vector_linear(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const VectorArguments all(args, kOut);

  const Checker check("codebook_vector_linear");
  Gpu gpu(check, all.x);
  gpu.require_here({all.x, all.weight, all.codebooks, all.out_scales, all.bias, all.out});
  check.expect_input(all.x, all.in_features);
  check.require(all.out_scales.dim() == 1, "out_scales must have one dimension");
  const int64_t out_features = all.out_scales.size(0);
  check.expect(all.out_scales, "out_scales", all.codebooks.dtype(), {out_features});
  lowbit_cuda_codebook_vector weight = describe_vector(check, all.codebooks, out_features, all.in_features);
  check.expect(all.weight, "weight", Dtype::kU8, {vector_words(check, weight), kWordBytes});
  weight.packed = all.weight.data();
  weight.out_scales = all.out_scales.data();
  const lowbit_precision precision = check.precision(all.precision);
  gpu.lend_matmul(all.x.rows());
  compute_on(
      gpu, check, args, all.x, all.bias, all.out, out_features,
      [&](int64_t tokens, size_t* bytes) {
        return lowbit_cuda_codebook_vector_workspace(gpu.description(), &weight, tokens, precision, bytes);
      },
      [&](auto* input, auto* bias_view, auto* y, void* memory, size_t bytes) {
        return lowbit_cuda_codebook_vector_linear(gpu.description(), &weight, input, bias_view, precision, y,
                                                  memory, bytes, gpu.stream());
      });
}

LOWBIT_INSTANTIATE(codebook_channel_linear)
LOWBIT_INSTANTIATE(codebook_scalar_linear)
LOWBIT_INSTANTIATE(codebook_vector_linear)

}  // namespace lowbit::torch_ops
