// A plan in words and numbers, as JSON.
#include <algorithm>

#include "cuda/api/bits_call.h"
#include "cuda/plan/json.h"

namespace lowbit::cuda {
namespace {

// Bytes that one product reads from memory, each counted once for every time it is read.
std::string bytes_of(const BitsCall& call, const Run& run, const Plan& plan, int64_t tokens) {
  const Layer& layer = run.layer;
  int64_t weight = 0, scales = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    const Segment& segment = layer.segments[s];
    int32_t end = 0;
    for (int32_t d = 0; end < layer.active; end += layer.digits.widths[d++]) {
      weight += digit_bytes(segment.out_features, layer.in_features, layer.digits.widths[d]);
    }
    const int64_t units = segment.out_features * unit_count(layer.in_features, layer.unit);
    if (segment.scales != nullptr) scales += units * (layer.scales_dtype == LOWBIT_F32 ? 4 : 2);
    if (segment.offsets != nullptr) scales += units * static_cast<int64_t>(sizeof(int16_t));
    const int64_t tables = layer.out_scales_dtype == LOWBIT_F32 ? 4 : 2;
    scales += segment.experts * segment.out_features * tables;
    scales += (segment.experts > 1 ? 2 : 1) * segment.experts * layer.in_features * tables;
  }
  Json json;
  json.add("weight", weight * plan.passes);
  json.add("scales", scales * std::min<int64_t>(plan.passes, 1));
  json.add("workspace", static_cast<int64_t>(workspace_bytes(call, tokens)));
  return json.object();
}

std::string rejected(const Plan& plan, const Run& run, const BitsCall& call, int64_t tokens) {
  Rejected rejected;
  for (int k = 0; k < kKernels; ++k) {
    const auto kernel = static_cast<Kernel>(k);
    if (kernel == plan.kernel) continue;
    rejected.add(name_of(kernel), reason_against(kernel, plan, run.layer, call.kind, tokens, call.device));
  }
  return rejected.list();
}

}  // namespace

std::string explain(const BitsCall& call, int64_t tokens) {
  const Run run = next_run(call, 0);
  const Plan plan = choose(run.layer, call.kind, tokens, call.device);
  const int64_t turns = (tokens + kTurnTokens - 1) / kTurnTokens;
  Json json;
  json.add("kernel", std::string(name_of(plan.kernel)));
  json.add("reason", reason(plan, run.layer, call.kind, tokens, call.device));
  json.add("launches", turns * (plan.kernel == Kernel::matmul ? 1 + 3 * plan.tiles : 2));
  json.add("segments", run.count);
  json.add("tokens", tokens);
  json.add("columns", plan.columns);
  json.add("passes", plan.passes);
  if (plan.blocks > 0) {
    json.add("row_warps", plan.partition.row_warps);
    json.add("input_warps", plan.partition.input_warps);
    json.add("splits", plan.partition.splits);
    json.add("blocks", plan.blocks);
    json.add("shared_bytes", plan.shared_bytes);
  }
  if (plan.kernel == Kernel::matmul) json.add("tile_rows", plan.tile_rows);
  json.add_raw("bytes", bytes_of(call, run, plan, tokens));
  json.add_raw("rejected", rejected(plan, run, call, tokens));
  return json.object();
}

}  // namespace lowbit::cuda
