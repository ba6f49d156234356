// C entries of channel codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/channel.h"

namespace lowbit::cuda::codebook {
namespace {

void check_labels(const lowbit_codebook_channel& weight) {
  check_size(weight.out_features, weight.in_features);
  check_range(weight.axis, 0, 1, "axis");
  check_range(weight.clusters, 1, int64_t{1} << 30, "clusters");
  if (weight.label_bytes != 4) check_range(weight.label_bytes, 1, 2, "label_bytes");
  check_not_null(weight.labels, "labels");
}

void check_weight(const lowbit_codebook_channel& weight) {
  check_labels(weight);
  check_range(weight.rank, 0, int64_t{1} << 30, "rank");
  check_dtype(weight.dtype, "weight");
  check_not_null(weight.weight, "weight");
  if (weight.rank == 0) return;
  check_not_null(weight.low_rank_out, "low_rank_out");
  check_not_null(weight.low_rank_in, "low_rank_in");
}

size_t workspace_of(const lowbit_codebook_channel& weight, int64_t tokens) {
  return sizeof(float) * tokens_of_turn(tokens) * channel_parts(weight);
}

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_order_codebook_channel(const lowbit_codebook_channel* weight,
                                                            int32_t* order, void* stream) {
  return guarded([&] {
    check_not_null(weight, "weight");
    check_labels(*weight);
    check_not_null(order, "order");
    order_labels(*weight, order, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_channel_workspace(const lowbit_cuda_device* device,
                                                                const lowbit_cuda_codebook_channel* weight,
                                                                int64_t tokens, lowbit_precision precision,
                                                                size_t* bytes) {
  return guarded([&] {
    check_not_null(weight, "weight");
    check_weight(weight->canonical);
    check_query(device, tokens, precision, bytes);
    *bytes = workspace_of(weight->canonical, tokens);
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_channel_linear(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_channel* weight,
                                                             const lowbit_input* x, const lowbit_vector* bias,
                                                             lowbit_precision precision,
                                                             const lowbit_output* y, void* workspace,
                                                             size_t workspace_bytes, void* stream) {
  return guarded([&] {
    check_not_null(weight, "weight");
    const lowbit_codebook_channel& canonical = weight->canonical;
    check_weight(canonical);
    if (canonical.axis == 1) check_not_null(weight->order, "order");
    check_linear(device, x, bias, precision, y, canonical.out_features, canonical.in_features);
    check_workspace(workspace, workspace_bytes, workspace_of(canonical, x->rows));
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      product_channel(
          {canonical, weight->order, some_x, static_cast<float*>(workspace), result_of(some_y, bias)},
          static_cast<Stream>(stream));
    });
    return LOWBIT_OK;
  });
}
