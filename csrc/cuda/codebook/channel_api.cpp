// C entries of channel codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/channel.h"

namespace lowbit::cuda::codebook {
namespace {

struct Channel {
  using Weight = lowbit_cuda_codebook_channel;

  static void check_labels(const lowbit_codebook_channel& weight) {
    check_size(weight.out_features, weight.in_features);
    check_range(weight.axis, 0, 1, "axis");
    check_range(weight.clusters, 1, int64_t{1} << 30, "clusters");
    if (weight.label_bytes != 4) check_range(weight.label_bytes, 1, 2, "label_bytes");
    check_not_null(weight.labels, "labels");
  }

  static void check_shape(const Weight* whole) {
    check_not_null(whole, "weight");
    const lowbit_codebook_channel& weight = whole->canonical;
    check_labels(weight);
    check_range(weight.rank, 0, int64_t{1} << 30, "rank");
    check_dtype(weight.dtype, "weight");
    check_not_null(weight.weight, "weight");
    if (weight.rank == 0) return;
    check_not_null(weight.low_rank_out, "low_rank_out");
    check_not_null(weight.low_rank_in, "low_rank_in");
  }

  static size_t workspace_bytes(const Weight& weight, const lowbit_cuda_device&, int64_t tokens,
                                lowbit_precision) {
    return sizeof(float) * tokens * channel_parts(weight.canonical);
  }

  static std::string explain(const Weight& whole, const lowbit_cuda_device& device, int64_t tokens,
                             lowbit_precision precision, lowbit_dtype) {
    const lowbit_codebook_channel& weight = whole.canonical;
    const Plan plan = choose(weight, tokens, device);
    const bool by_output = weight.axis == 0;
    const int64_t dense = weight.clusters * (by_output ? weight.in_features : weight.out_features);
    const int64_t low_rank = weight.rank * (weight.in_features + weight.out_features);
    const int64_t labels = by_output ? weight.out_features * weight.label_bytes
                                     : (weight.clusters + 1 + weight.in_features) * int64_t{sizeof(int32_t)};
    return codebook::explain(
        plan, reason(plan, weight), rejected_by(plan, weight, device), tokens, 2 * turns_of(tokens),
        {(dense + low_rank) * bytes_of(weight.dtype) * plan.passes, labels * plan.passes,
         static_cast<int64_t>(workspace_bytes(whole, device, tokens_of_turn(tokens), precision))});
  }
};

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_order_codebook_channel(const lowbit_codebook_channel* weight,
                                                            int32_t* order, void* stream) {
  return guarded([&] {
    check_not_null(weight, "weight");
    Channel::check_labels(*weight);
    check_not_null(order, "order");
    order_labels(*weight, order, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_channel_workspace(const lowbit_cuda_device* device,
                                                                const lowbit_cuda_codebook_channel* weight,
                                                                int64_t tokens, lowbit_precision precision,
                                                                size_t* bytes) {
  return workspace_entry<Channel>(device, weight, tokens, precision, bytes);
}

extern "C" lowbit_status lowbit_cuda_codebook_channel_explain(const lowbit_cuda_device* device,
                                                              const lowbit_cuda_codebook_channel* weight,
                                                              int64_t tokens, lowbit_precision precision,
                                                              lowbit_dtype activations, char* text,
                                                              size_t capacity, size_t* length) {
  return explain_entry<Channel>(device, weight, tokens, precision, activations, text, capacity, length);
}

extern "C" lowbit_status lowbit_cuda_codebook_channel_linear(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_channel* weight,
                                                             const lowbit_input* x, const lowbit_vector* bias,
                                                             lowbit_precision precision,
                                                             const lowbit_output* y, void* workspace,
                                                             size_t workspace_bytes, void* stream) {
  return guarded([&] {
    Channel::check_shape(weight);
    const lowbit_codebook_channel& canonical = weight->canonical;
    if (canonical.axis == 1) check_not_null(weight->order, "order");
    check_linear(device, x, bias, precision, y, canonical.out_features, canonical.in_features);
    check_workspace(workspace, workspace_bytes,
                    Channel::workspace_bytes(*weight, *device, tokens_of_turn(x->rows), precision));
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      product_channel(
          {canonical, weight->order, some_x, static_cast<float*>(workspace), result_of(some_y, bias)},
          choose(canonical, some_x.rows, *device), static_cast<Stream>(stream));
    });
    return LOWBIT_OK;
  });
}
