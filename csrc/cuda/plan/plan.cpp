#include "cuda/plan/plan.h"

#include <algorithm>

#include "cuda/bits/gemv.h"
#include "cuda/plan/json.h"
#include "cuda/plan/matmul.h"
#include "cuda/plan/partition.h"

namespace lowbit::cuda {
namespace {

constexpr int64_t kGemmColumns = 64;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

bool one_bit_digits(const Layer& layer) {
  int32_t end = 0;
  for (int32_t d = 0; end < layer.active; end += layer.digits.widths[d++]) {
    if (layer.digits.widths[d] != 1) return false;
  }
  return true;
}

Refusal refuse_b1(const Layer& layer, const ActivationKind& kind, int64_t tokens,
                  const lowbit_cuda_device& device) {
  if (!architecture_of(device.architecture).b1) return Refusal::architecture;
  if (is_grouped(layer, kind)) return Refusal::grouped_sums;
  if (!one_bit_digits(layer)) return Refusal::wide_digits;
  if (tokens * kind.planes_per_token() > kPassColumns) return Refusal::many_planes;
  return Refusal::none;
}

Refusal refuse_matmul(const ActivationKind& kind, int64_t tokens, const lowbit_cuda_device& device) {
  if (kind.exact()) return Refusal::wants_exact;
  if (kind.fast() || kind.bits > 0) return Refusal::integers;
  if (tokens <= kMatmulTokens) return Refusal::few_tokens;
  return device.matmul == nullptr ? Refusal::no_matmul : Refusal::none;
}

void divide_rows(const Layer& layer, int64_t tokens, const lowbit_cuda_device& device, Plan& plan) {
  int64_t most = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) most = std::max(most, layer.segments[s].out_features);
  plan.tile_rows = matmul_tile_rows(layer.in_features, most, std::min(tokens, kTurnTokens), device);
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    plan.tiles += ceil_div(layer.segments[s].out_features, plan.tile_rows);
  }
}

using Integer = long long;

}  // namespace

const char* name_of(Kernel kernel) {
  static constexpr const char* kNames[kKernels] = {"imma_gemv", "b1_gemv", "gemm", "fp32", "matmul"};
  return kNames[static_cast<int>(kernel)];
}

Plan choose(const Layer& layer, const ActivationKind& kind, int64_t tokens,
            const lowbit_cuda_device& device) {
  Plan plan{};
  auto& [imma_gemv, b1_gemv, gemm, fp32, matmul] = plan.refusals;
  matmul = refuse_matmul(kind, tokens, device);
  if (kind.exact()) {
    plan.kernel = Kernel::fp32;
    imma_gemv = b1_gemv = gemm = Refusal::wants_exact;
    plan.columns = tokens;
    plan.passes = tokens > 0 ? 1 : 0;
    return plan;
  }
  fp32 = Refusal::not_exact;
  if (matmul == Refusal::none) {
    plan.kernel = Kernel::matmul;
    imma_gemv = b1_gemv = gemm = Refusal::many_tokens;
    plan.columns = tokens;
    plan.passes = ceil_div(tokens, kTurnTokens);
    divide_rows(layer, tokens, device, plan);
    return plan;
  }
  if (tokens > kGemvTokens) {
    plan.kernel = Kernel::gemm;
    imma_gemv = b1_gemv = Refusal::many_tokens;
    plan.columns = tokens * kind.columns_per_token();
    plan.passes = ceil_div(plan.columns, kGemmColumns);
    return plan;
  }
  gemm = Refusal::few_tokens;
  b1_gemv = refuse_b1(layer, kind, tokens, device);
  imma_gemv = b1_gemv == Refusal::none ? Refusal::slower : Refusal::none;
  plan.kernel = b1_gemv == Refusal::none ? Kernel::b1_gemv : Kernel::imma_gemv;

  const bool b1 = plan.kernel == Kernel::b1_gemv;
  const int32_t per_token = b1 ? kind.planes_per_token() : kind.columns_per_token();
  plan.columns = tokens * per_token;
  if (tokens == 0) return plan;
  const bool grouped = is_grouped(layer, kind);
  const Product product{
      layer, grouped, b1, per_token, tokens, device.multiprocessors, architecture_of(device.architecture)};
  plan.partition = choose_partition(product);
  if (b1) {
    plan.column_tiles = plan.columns > kPassColumns / 2 ? 2 : 1;
    plan.passes = 1;
    plan.blocks = row_blocks(layer, plan.partition.row_warps);
    return plan;
  }
  const GemvShape shape = gemv_shape(layer, grouped, per_token, tokens, plan.partition);
  plan.column_tiles = shape.column_tiles;
  plan.passes = shape.passes;
  plan.blocks = shape.groups / shape.passes * plan.partition.splits;
  plan.shared_bytes = shape.shared_bytes;
  plan.arrivals = plan.partition.splits > 1 ? shape.groups : 0;
  plan.partial_bytes = shape.partial_bytes;
  return plan;
}

std::string reason(const Plan& plan, const Layer& layer, const ActivationKind& kind, int64_t tokens,
                   const lowbit_cuda_device& device) {
  switch (plan.kernel) {
    case Kernel::fp32:
      return "precision exact keeps activations in fp32: products on the CUDA cores";
    case Kernel::gemm:
      return sentence(
          "%lld tokens are more than %lld: %lld columns share the weight's expansion in registers",
          Integer{tokens}, Integer{kGemvTokens}, Integer{kGemmColumns});
    case Kernel::matmul:
      return sentence(
          "%lld tokens are more than %lld: %lld rows of the weight at a time are expanded to fp16 and "
          "multiplied by the caller's matrix product",
          Integer{tokens}, Integer{kMatmulTokens}, Integer{plan.tile_rows});
    case Kernel::b1_gemv:
      return sentence("%s on sm_%d, and %lld tokens of %d bit planes fit one reading of the weight",
                      architecture_of(device.architecture).b1_why, device.architecture, Integer{tokens},
                      kind.planes_per_token());
    case Kernel::imma_gemv:
      break;
  }
  return sentence(
      "%lld tokens of %d int8 columns, weights expanded inside the tensor core operand: %lld blocks of %d x "
      "%d warps (rows x inputs), %d of them to a row, on %d multiprocessors; sums leave the integers %s",
      Integer{tokens}, kind.columns_per_token(), Integer{plan.blocks}, plan.partition.row_warps,
      plan.partition.input_warps, plan.partition.splits, device.multiprocessors,
      is_grouped(layer, kind) ? (layer.unit == Unit::inputs_32 ? "every 32 inputs" : "every 128 inputs")
                              : "at the end of a row");
}

std::string reason_against(Kernel kernel, const Plan& plan, const Layer& layer, const ActivationKind& kind,
                           int64_t tokens, const lowbit_cuda_device& device) {
  switch (plan.refusals[static_cast<int>(kernel)]) {
    case Refusal::none:
      break;
    case Refusal::wants_exact:
      return "precision exact: activations must not be rounded";
    case Refusal::not_exact:
      return "activations are quantised, and fp32 products would need many times the instructions";
    case Refusal::grouped_sums:
      return kind.fast()
                 ? "activations have a scale for every 128 inputs: sums leave the integers inside a row"
                 : sentence(
                       "the weight has a scale for every %d inputs: sums leave the integers inside a row",
                       static_cast<int>(layer.unit));
    case Refusal::wide_digits:
      return "the weight has digits of more than one bit";
    case Refusal::architecture:
      return architecture_of(device.architecture).b1_why;
    case Refusal::many_planes:
      return sentence("%lld tokens of %d bit planes do not fit one reading of the weight, which takes %lld",
                      Integer{tokens}, kind.planes_per_token(), Integer{kPassColumns});
    case Refusal::integers:
      return "activations have 8 bits or fewer: products stay integers";
    case Refusal::no_matmul:
      return "the caller lends no matrix product with sums in fp32";
    case Refusal::few_tokens:
      if (kernel == Kernel::matmul) {
        return sentence(
            "%lld tokens are not more than %lld: the expanded weight would cost more than it saves",
            Integer{tokens}, Integer{kMatmulTokens});
      }
      return sentence("%lld tokens are not more than %lld: a tile of %lld columns would be mostly empty",
                      Integer{tokens}, Integer{kGemvTokens}, Integer{kGemmColumns});
    case Refusal::many_tokens:
      if (kernel == Kernel::gemm) {
        return sentence(
            "%lld tokens are more than %lld: the weight would be expanded once for every %lld columns",
            Integer{tokens}, Integer{kMatmulTokens}, Integer{kGemmColumns});
      }
      return sentence(
          "%lld tokens are more than %lld: the weight would be read and expanded once for every %lld columns",
          Integer{tokens}, Integer{kGemvTokens}, Integer{kPassColumns});
    case Refusal::slower:
      return "as many bytes, but four times the instructions per weight of one-bit products";
  }
  return "";
}

}  // namespace lowbit::cuda
