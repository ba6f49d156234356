// C interface of the families signs and planes: products, the memory they need, their activations.
#include <cstdio>

#include "cuda/api/bits_call.h"
#include "cuda/api/checks.h"
#include "cuda/error.h"
#include "cuda/plan/json.h"

namespace lowbit::cuda {
namespace {

struct Name {
  explicit Name(int32_t segment) { std::snprintf(text, sizeof text, "segment %d", segment); }
  char text[24];
};

// What a choice of kernel needs: shapes, but no pointers. `bits`: 0 for any.
void check_shapes(const lowbit_cuda_signs* segments, int32_t num_segments, int32_t bits) {
  check_not_null(segments, "segments");
  check_range(num_segments, 1, INT32_MAX, "num_segments");
  for (int32_t s = 0; s < num_segments; ++s) {
    const Name name(s);
    check_layout(segments[s].bits, name.text);
    check_experts(segments[s].experts, name.text);
    if (bits != 0 && segments[s].bits.bits != bits) {
      throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d bits; allowed: %d", name.text, segments[s].bits.bits,
                  bits);
    }
    if (segments[s].bits.in_features != segments[0].bits.in_features) {
      throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %lld inputs; allowed: %lld, as segment 0", name.text,
                  static_cast<long long>(segments[s].bits.in_features),
                  static_cast<long long>(segments[0].bits.in_features));
    }
  }
}

BitsCall make_call(const lowbit_cuda_device* device, const lowbit_cuda_signs* segments, int32_t num_segments,
                   int32_t active_bits, int32_t activation_bits, lowbit_precision precision) {
  check_device(device);
  check_range(activation_bits, 0, 8, "activation_bits");
  check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision");
  for (int32_t s = 0; s < num_segments; ++s) check_active_bits(segments[s].bits, active_bits);
  return {*device, segments, num_segments, active_bits, {precision, activation_bits}};
}

lowbit_status linear(const BitsCall& call, const lowbit_input* x, const lowbit_vector* bias,
                     const lowbit_output* y, void* workspace, size_t bytes, void* stream) {
  int64_t out_features = 0;
  for (int32_t s = 0; s < call.num_segments; ++s) out_features += call.segments[s].bits.out_features;
  check_input(x, call.segments[0].bits.in_features);
  check_output(y, x->rows, out_features);
  check_bias(bias, out_features);
  check_workspace(workspace, bytes, workspace_bytes(call, x->rows));
  bits_linear(call, *x, bias, *y, workspace, static_cast<Stream>(stream));
  return LOWBIT_OK;
}

lowbit_status query_workspace(const BitsCall& call, int64_t tokens, size_t* bytes) {
  check_range(tokens, 0, INT64_MAX, "tokens");
  check_not_null(bytes, "bytes");
  *bytes = workspace_bytes(call, tokens);
  return LOWBIT_OK;
}

// A weight of the family planes as one segment without experts.
lowbit_cuda_signs segment_of(const lowbit_cuda_bits* weight) {
  check_not_null(weight, "weight");
  check_layout(*weight, "weight");
  lowbit_cuda_signs segment{};
  segment.bits = *weight;
  return segment;
}

}  // namespace
}  // namespace lowbit::cuda

extern "C" {

lowbit_status lowbit_cuda_signs_workspace(const lowbit_cuda_device* device, const lowbit_cuda_signs* segments,
                                          int32_t num_segments, int64_t tokens, lowbit_precision precision,
                                          size_t* bytes) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    check_shapes(segments, num_segments, 1);
    return query_workspace(make_call(device, segments, num_segments, 1, 0, precision), tokens, bytes);
  });
}

lowbit_status lowbit_cuda_signs_linear(const lowbit_cuda_device* device, const lowbit_cuda_signs* segments,
                                       int32_t num_segments, const lowbit_input* x, const lowbit_vector* bias,
                                       lowbit_precision precision, const lowbit_output* y, void* workspace,
                                       size_t workspace_bytes, void* stream) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    check_shapes(segments, num_segments, 1);
    for (int32_t s = 0; s < num_segments; ++s) check_signs(segments[s], Name(s).text);
    const BitsCall call = make_call(device, segments, num_segments, 1, 0, precision);
    return linear(call, x, bias, y, workspace, workspace_bytes, stream);
  });
}

lowbit_status lowbit_cuda_planes_workspace(const lowbit_cuda_device* device, const lowbit_cuda_bits* weight,
                                           int32_t active_bits, int64_t tokens, int32_t activation_bits,
                                           lowbit_precision precision, size_t* bytes) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    const lowbit_cuda_signs segment = segment_of(weight);
    const BitsCall call = make_call(device, &segment, 1, active_bits, activation_bits, precision);
    return query_workspace(call, tokens, bytes);
  });
}

lowbit_status lowbit_cuda_planes_linear(const lowbit_cuda_device* device, const lowbit_cuda_bits* weight,
                                        int32_t active_bits, const lowbit_input* x, int32_t activation_bits,
                                        const lowbit_vector* bias, lowbit_precision precision,
                                        const lowbit_output* y, void* workspace, size_t workspace_bytes,
                                        void* stream) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    const lowbit_cuda_signs segment = segment_of(weight);
    check_bits(*weight, "weight");
    const BitsCall call = make_call(device, &segment, 1, active_bits, activation_bits, precision);
    return linear(call, x, bias, y, workspace, workspace_bytes, stream);
  });
}

lowbit_status lowbit_cuda_stage(const lowbit_cuda_device* device, const lowbit_cuda_signs* segments,
                                int32_t num_segments, int32_t active_bits, const lowbit_input* x,
                                int32_t activation_bits, lowbit_precision precision,
                                lowbit_cuda_staged* staged, void* workspace, size_t workspace_bytes,
                                void* stream) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    check_shapes(segments, num_segments, 0);
    for (int32_t s = 0; s < num_segments; ++s) check_signs(segments[s], Name(s).text);
    const BitsCall call = make_call(device, segments, num_segments, active_bits, activation_bits, precision);
    check_input(x, segments[0].bits.in_features);
    check_range(x->rows, 0, kTurnTokens, "x.rows");
    check_not_null(staged, "staged");
    check_workspace(workspace, workspace_bytes, lowbit::cuda::workspace_bytes(call, x->rows));
    const Run run = next_run(call, 0);
    if (run.count < num_segments) {
      throw lowbit::Error(
          LOWBIT_UNSUPPORTED,
          "segment %d cannot share a launch with those before it; allowed: up to %d segments alike "
          "in group size and dtypes",
          run.count, kMaxSegments);
    }
    *staged = stage_run(call, run, *x, workspace, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

lowbit_status lowbit_cuda_explain(const lowbit_cuda_device* device, const lowbit_cuda_signs* segments,
                                  int32_t num_segments, int32_t active_bits, int64_t tokens,
                                  int32_t activation_bits, lowbit_precision precision, char* text,
                                  size_t capacity, size_t* length) {
  using namespace lowbit::cuda;
  return lowbit::guarded([&] {
    check_shapes(segments, num_segments, 0);
    const BitsCall call = make_call(device, segments, num_segments, active_bits, activation_bits, precision);
    check_range(tokens, 0, INT64_MAX, "tokens");
    copy_text(explain(call, tokens), text, capacity, length);
    return LOWBIT_OK;
  });
}

}  // extern "C"
