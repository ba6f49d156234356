// C interface of attention: what stands between the linear layers of a decoder for one token.
#include "cpu/attention/attention.h"

#include <algorithm>

#include "core/cpu_features.h"
#include "core/error.h"
#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/checks.h"
#include "lowbit.h"

namespace lowbit {
namespace {

using attention::kStretch;
using attention::padded;

// Fewer products than a thread does while another one wakes up are left to one thread.
constexpr int64_t kThreadProducts = 1 << 17;

lowbit_status check(const lowbit_attention_call& call) {
  if (const lowbit_status bad = check_range(call.batch, 0, INT32_MAX, "batch")) return bad;
  if (const lowbit_status bad = check_range(call.groups, 1, INT32_MAX, "groups")) return bad;
  if (const lowbit_status bad = check_range(call.heads, call.groups, INT32_MAX, "heads")) return bad;
  if (const lowbit_status bad = check_range(call.heads % call.groups, 0, 0, "heads modulo groups"))
    return bad;
  if (const lowbit_status bad = check_range(call.length, 0, INT32_MAX, "length")) return bad;
  if (const lowbit_status bad = check_range(call.width, 1, INT32_MAX, "width")) return bad;
  if (const lowbit_status bad = check_range(call.value_width, 1, INT32_MAX, "value_width")) return bad;
  if (const lowbit_status bad = check_dtype(call.dtype, "query")) return bad;
  if (!(call.softcap >= 0)) return fail(LOWBIT_INVALID_ARGUMENT, "softcap must be 0 or more");
  if (call.batch == 0) return LOWBIT_OK;
  if (const lowbit_status bad = check_not_null(call.query, "query")) return bad;
  if (const lowbit_status bad = check_not_null(call.out, "out")) return bad;
  if (call.length == 0) return LOWBIT_OK;
  if (const lowbit_status bad = check_not_null(call.keys, "keys")) return bad;
  return check_not_null(call.values, "values");
}

class Attention {
 public:
  explicit Attention(const lowbit_attention_call& call, const AttentionKernels& kernels)
      : call_(call),
        kernels_(kernels),
        rows_(call.heads / call.groups),
        stretches_((call.length + kStretch - 1) / kStretch),
        part_(rows_ * (2 + padded(call.value_width))),
        size_(dtype_size(call.dtype)) {}

  lowbit_status run() {
    thread_local Scratch scratch;
    const int64_t pairs = call_.batch * call_.groups;
    ScratchLayout layout;
    const size_t query_at = layout.add<float>(call_.batch * call_.heads * padded(call_.width));
    const size_t positions_at = layout.add<int32_t>(call_.batch * call_.length);
    const size_t counts_at = layout.add<int32_t>(call_.batch * stretches_);
    const size_t scores_at = layout.add<float>(pairs * stretches_ * rows_ * kStretch);
    const size_t parts_at = layout.add<float>(pairs * stretches_ * part_);
    std::byte* const base = scratch.reserve(layout.size());
    if (base == nullptr)
      return fail(LOWBIT_OUT_OF_MEMORY, "no memory for attention (%zu bytes)", layout.size());
    query_ = at<float>(base, query_at);
    positions_ = at<int32_t>(base, positions_at);
    counts_ = at<int32_t>(base, counts_at);
    scores_ = at<float>(base, scores_at);
    parts_ = at<float>(base, parts_at);

    scale_query();
    list_positions();
    const int64_t units = pairs * stretches_;
    const int64_t products = call_.batch * call_.heads * call_.length * (call_.width + call_.value_width);
    parallel_for(units, threads(products), [&](int64_t begin, int64_t end, int) {
      for (int64_t unit = begin; unit < end; ++unit) stretch(unit);
    });
    const int64_t heads = call_.batch * call_.heads;
    parallel_for(heads, threads(heads * stretches_ * call_.value_width),
                 [&](int64_t begin, int64_t end, int) {
                   for (int64_t head = begin; head < end; ++head) merge(head);
                 });
    return LOWBIT_OK;
  }

 private:
  static int threads(int64_t products) {
    return static_cast<int>(std::clamp<int64_t>(products / kThreadProducts, 1, get_num_threads()));
  }

  void scale_query() {
    const int64_t stride = padded(call_.width);
    for (int64_t b = 0; b < call_.batch; ++b) {
      for (int64_t h = 0; h < call_.heads; ++h) {
        const int64_t first = b * call_.query_stride[0] + h * call_.query_stride[1];
        float* const row = query_ + (b * call_.heads + h) * stride;
        for (int64_t k = 0; k < call_.width; ++k) {
          row[k] = call_.scale * load_value(call_.query, call_.dtype, first + k);
        }
        std::fill(row + call_.width, row + stride, 0.0f);
      }
    }
  }

  // Those of a stretch stand together, from its first one's own place on.
  void list_positions() {
    for (int64_t b = 0; b < call_.batch; ++b) {
      const uint8_t* const seen = call_.seen == nullptr ? nullptr : call_.seen + b * call_.seen_stride;
      for (int64_t s = 0; s < stretches_; ++s) {
        const int64_t begin = s * kStretch, end = std::min(begin + kStretch, call_.length);
        int32_t* const list = positions_ + b * call_.length + begin;
        int32_t count = 0;
        for (int64_t p = begin; p < end; ++p) {
          list[count] = static_cast<int32_t>(p);
          count += seen == nullptr || seen[p] != 0;
        }
        counts_[b * stretches_ + s] = count;
      }
    }
  }

  attention::Part part(int64_t unit) const {
    float* const first = parts_ + unit * part_;
    return {first, first + rows_, first + 2 * rows_};
  }

  void stretch(int64_t unit) const {
    const int64_t pair = unit / stretches_, s = unit % stretches_;
    const int64_t b = pair / call_.groups, g = pair % call_.groups;
    const auto first = [&](const void* data, const int64_t* strides) {
      return static_cast<const char*>(data) + (b * strides[0] + g * strides[1]) * size_;
    };
    kernels_.stretch(
        {rows_, call_.width, call_.value_width, query_ + (b * call_.heads + g * rows_) * padded(call_.width),
         call_.softcap, first(call_.keys, call_.keys_stride), first(call_.values, call_.values_stride),
         call_.keys_stride[2] * size_, call_.values_stride[2] * size_, call_.dtype,
         positions_ + b * call_.length + s * kStretch, counts_[b * stretches_ + s],
         scores_ + unit * rows_ * kStretch},
        part(unit));
  }

  void merge(int64_t head) const {
    const int64_t pair = head / rows_, row = head % rows_;
    const attention::Part first = part(pair * stretches_);
    kernels_.merge(first.largest + row, first.sum + row, first.weighted + row * padded(call_.value_width),
                   part_, stretches_, call_.value_width,
                   static_cast<char*>(call_.out) + head * call_.value_width * size_, call_.dtype);
  }

  const lowbit_attention_call& call_;
  const AttentionKernels& kernels_;
  const int64_t rows_, stretches_, part_, size_;
  float* query_ = nullptr;
  int32_t* positions_ = nullptr;
  int32_t* counts_ = nullptr;
  float* scores_ = nullptr;
  float* parts_ = nullptr;
};

}  // namespace
}  // namespace lowbit

extern "C" lowbit_status lowbit_attention(const lowbit_attention_call* call) {
  using namespace lowbit;
  if (const lowbit_status bad = check_not_null(call, "call")) return bad;
  if (const lowbit_status bad = check(*call)) return bad;
  if (call->batch == 0) return LOWBIT_OK;
  Isa isa;
  if (const lowbit_status bad = active_isa(&isa)) return bad;
  return Attention(*call, attention_kernels(isa)).run();
}
