#include "cuda/api/bits_call.h"

#include <algorithm>
#include <variant>

namespace lowbit::cuda {
namespace {

int64_t dtype_bytes(lowbit_dtype dtype) {
  return dtype == LOWBIT_F32 ? 4 : 2;
}

Unit unit_of_weight(const lowbit_cuda_bits& bits) {
  return bits.scales == nullptr ? Unit::row : unit_of(bits.group_size);
}

bool alike(const lowbit_cuda_signs& a, const lowbit_cuda_signs& b) {
  return unit_of_weight(a.bits) == unit_of_weight(b.bits) && a.bits.scales_dtype == b.bits.scales_dtype &&
         a.dtype == b.dtype;
}

Segment segment_of(const lowbit_cuda_signs& signs, int32_t set) {
  Segment segment{};
  segment.out_features = signs.bits.out_features;
  segment.tiles = static_cast<const uint4*>(signs.bits.tiles);
  segment.scales = signs.bits.scales;
  segment.offsets = signs.bits.offsets;
  segment.experts = signs.experts;
  if (signs.experts > 0) {
    segment.out_scales = signs.out_scales;
    segment.out_scales_stride = signs.out_scales_stride;
  }
  segment.set = set;
  return segment;
}

// Staged activations in the form that a plan's kernel takes.
using Staged = std::variant<Columns, Planes, FloatColumns, HalfColumns>;

Staging staging_of(const BitsCall& call, const Run& run, const Plan& plan, int64_t tokens) {
  Staging staging{};
  staging.tokens = tokens;
  staging.in_features = run.layer.in_features;
  staging.sets = run.sets;
  for (int32_t set = 0; set < run.sets; ++set) {
    staging.experts = std::max(staging.experts, run.mixes[set].experts);
  }
  staging.grouped = is_grouped(run.layer, call.kind);
  staging.unit = run.layer.unit;
  staging.sums_factor = sums_factor(call.active_bits, call.kind.columns_per_token());
  staging.subnormal = plan.kernel == Kernel::imma_gemv && run.layer.unit == Unit::inputs_128 &&
                      form_of(run.layer) == Form::one && call.kind.columns_per_token() == 1 &&
                      run.layer.scales_dtype == LOWBIT_F16;
  staging.arrivals = plan.arrivals;
  staging.partial_bytes = plan.partial_bytes;
  staging.tile_rows = plan.tile_rows;
  return staging;
}

Staged layout(Kernel kernel, const Staging& staging, const ActivationKind& kind, void* memory,
              size_t* bytes) {
  if (kernel == Kernel::fp32) return layout_floats(staging, memory, bytes);
  if (kernel == Kernel::matmul) return layout_halves(staging, memory, bytes);
  if (kernel == Kernel::b1_gemv) return layout_planes(staging, kind, memory, bytes);
  return layout_columns(staging, kind, memory, bytes);
}

// Tokens [first, first + tokens) of x.
PrologueInput input_of(const Run& run, const lowbit_input& x, int64_t first, int64_t tokens) {
  PrologueInput input{};
  input.x = static_cast<const char*>(x.data) + first * x.row_stride * dtype_bytes(x.dtype);
  input.dtype = x.dtype;
  input.stride = x.row_stride;
  input.tokens = tokens;
  input.in_features = x.cols;
  std::copy_n(run.mixes, run.sets, input.mixes);
  return input;
}

void stage(const PrologueInput& input, const Staging& staging, const ActivationKind& kind, const Staged& out,
           Stream stream) {
  if (const auto* columns = std::get_if<Columns>(&out)) {
    stage(input, staging, kind, *columns, stream);
  } else if (const auto* planes = std::get_if<Planes>(&out)) {
    stage(input, kind, *planes, stream);
  } else if (const auto* halves = std::get_if<HalfColumns>(&out)) {
    stage(input, *halves, stream);
  } else {
    stage(input, std::get<FloatColumns>(out), stream);
  }
}

void multiply(const Plan& plan, const Layer& layer, const Staged& x, const Result& result,
              const lowbit_cuda_device& device, Stream stream) {
  switch (plan.kernel) {
    case Kernel::imma_gemv:
      return gemv(layer, std::get<Columns>(x), result, plan.partition, stream);
    case Kernel::b1_gemv:
      return b1_gemv(layer, std::get<Planes>(x), result, plan.partition, stream);
    case Kernel::gemm:
      return gemm(layer, std::get<Columns>(x), result, stream);
    case Kernel::fp32:
      return exact(layer, std::get<FloatColumns>(x), result, stream);
    case Kernel::matmul:
      return matmul(layer, std::get<HalfColumns>(x), result, device, stream);
  }
}

// Row `token` of y on, from column `column` on.
Result result_of(const lowbit_output& y, const lowbit_vector* bias, int64_t token, int64_t column) {
  Result result{};
  result.y = static_cast<char*>(y.data) + (token * y.row_stride + column) * dtype_bytes(y.dtype);
  result.dtype = y.dtype;
  result.stride = y.row_stride;
  if (bias != nullptr && bias->data != nullptr) {
    result.bias = static_cast<const char*>(bias->data) + column * dtype_bytes(bias->dtype);
    result.bias_dtype = bias->dtype;
  }
  return result;
}

}  // namespace

Run next_run(const BitsCall& call, int32_t first) {
  Run run{};
  const lowbit_cuda_signs* const segments = call.segments + first;
  const int32_t left = std::min(call.num_segments - first, kMaxSegments);
  bool experts = false;
  while (run.count < left && alike(segments[0], segments[run.count])) {
    experts = experts || segments[run.count].experts > 0;
    run.out_features += segments[run.count].bits.out_features;
    ++run.count;
  }
  // Without experts all segments read the same activations.
  run.sets = experts ? run.count : 1;

  const lowbit_cuda_bits& bits = segments[0].bits;
  Layer& layer = run.layer;
  layer.in_features = bits.in_features;
  layer.planes = bits.bits;
  layer.digits.count = bits.num_digits;
  std::copy_n(bits.digits, bits.num_digits, layer.digits.widths);
  layer.active = call.active_bits;
  layer.unit = unit_of_weight(bits);
  layer.scales_dtype = bits.scales_dtype;
  layer.out_scales_dtype = segments[0].dtype;
  layer.num_segments = run.count;
  for (int32_t s = 0; s < run.count; ++s) {
    layer.segments[s] = segment_of(segments[s], experts ? s : 0);
    if (experts)
      run.mixes[s] = {segments[s].router, segments[s].in_scales, segments[s].dtype, segments[s].experts};
  }
  return run;
}

size_t workspace_bytes(const BitsCall& call, int64_t tokens) {
  size_t largest = 0;
  for (int32_t s = 0; s < call.num_segments && tokens > 0;) {
    const Run run = next_run(call, s);
    const Plan plan = choose(run.layer, call.kind, tokens, call.device);
    size_t bytes = 0;
    layout(plan.kernel, staging_of(call, run, plan, std::min(tokens, kTurnTokens)), call.kind, nullptr,
           &bytes);
    largest = std::max(largest, bytes);
    s += run.count;
  }
  return largest;
}

void bits_linear(const BitsCall& call, const lowbit_input& x, const lowbit_vector* bias,
                 const lowbit_output& y, void* workspace, Stream stream) {
  int64_t column = 0;
  for (int32_t s = 0; s < call.num_segments;) {
    const Run run = next_run(call, s);
    const Plan plan = choose(run.layer, call.kind, x.rows, call.device);
    for (int64_t first = 0; first < x.rows; first += kTurnTokens) {
      const Staging staging = staging_of(call, run, plan, std::min(x.rows - first, kTurnTokens));
      size_t bytes = 0;
      const Staged staged = layout(plan.kernel, staging, call.kind, workspace, &bytes);
      stage(input_of(run, x, first, staging.tokens), staging, call.kind, staged, stream);
      multiply(plan, run.layer, staged, result_of(y, bias, first, column), call.device, stream);
    }
    column += run.out_features;
    s += run.count;
  }
}

lowbit_cuda_staged stage_run(const BitsCall& call, const Run& run, const lowbit_input& x, void* workspace,
                             Stream stream) {
  const Plan plan = choose(run.layer, call.kind, x.rows, call.device);
  const Staging staging = staging_of(call, run, plan, x.rows);
  size_t bytes = 0;
  const Staged out = layout(plan.kernel, staging, call.kind, workspace, &bytes);
  stage(input_of(run, x, 0, x.rows), staging, call.kind, out, stream);

  lowbit_cuda_staged staged{};
  const auto common = [&](lowbit_cuda_form form, const auto& of) {
    staged.form = form;
    staged.sets = of.sets;
    staged.experts = of.experts;
    staged.tokens = of.tokens;
    staged.padded_inputs = of.padded_inputs;
    staged.per_token = 1;
    staged.gates = of.gates;
  };
  if (const auto* columns = std::get_if<Columns>(&out)) {
    common(LOWBIT_CUDA_COLUMNS, *columns);
    staged.per_token = columns->per_token;
    staged.scale_groups = columns->scale_groups;
    staged.units = columns->units;
    staged.codes = columns->codes;
    staged.scales = columns->scales;
    staged.sums = columns->grouped() ? columns->sums : nullptr;
    staged.totals = columns->grouped() ? nullptr : columns->totals;
  } else if (const auto* planes = std::get_if<Planes>(&out)) {
    common(LOWBIT_CUDA_PLANES, *planes);
    staged.per_token = planes->per_token;
    staged.scale_groups = 1;
    staged.codes = planes->words;
    staged.scales = planes->scales;
    staged.totals = planes->totals;
  } else if (const auto* halves = std::get_if<HalfColumns>(&out)) {
    common(LOWBIT_CUDA_HALVES, *halves);
    staged.padded_inputs = halves->row_inputs;
    staged.scale_groups = 1;
    staged.codes = halves->values;
    staged.scales = halves->scales;
  } else {
    const auto& floats = std::get<FloatColumns>(out);
    common(LOWBIT_CUDA_FLOATS, floats);
    staged.codes = floats.values;
  }
  return staged;
}

}  // namespace lowbit::cuda
