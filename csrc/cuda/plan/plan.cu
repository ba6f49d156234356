#include <algorithm>
#include <cstdio>

#include "cuda/bits/gemv.h"
#include "cuda/plan/architectures.h"
#include "cuda/plan/plan.h"

namespace lowbit::cuda {
namespace {

constexpr int64_t kPassColumns = 16;  // of a GEMV: B columns that share one reading of the weight
constexpr int64_t kGemmColumns = 64;
constexpr int64_t kTileColumns = 8;
constexpr int32_t kMaxWarps = 8;  // of a block

// Memory answers after about 700 ns. To keep 3.35 TB/s busy that long, each of 132 multiprocessors must have
// 18 KB under way; a third more for newer memory and for what the loads of a loop leave idle.
constexpr double kBytesUnderWay = 24 << 10;
constexpr double kResidentWarps = 16;  // of a multiprocessor, at 128 registers a thread
// One multiprocessor can read and multiply about twice its share of what memory delivers to all.
constexpr double kSpareRate = 2;
// The second-level cache, through which all goes, delivers about that many times what memory does.
constexpr double kCacheRate = 1.7;
// What a row is split for: four tokens at `high`. A finer split keeps more bytes under way at one token, a
// coarser one leaves more warps to share the columns of a full pass.
constexpr int64_t kTypicalColumns = 8;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t block_count(const Layer& layer, int64_t tiles_per_block) {
  int64_t blocks = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    blocks += ceil_div(row_tiles(layer.segments[s].out_features), tiles_per_block);
  }
  return blocks;
}

// Time of a product, in units of what a multiprocessor takes for one span of one row tile at its share of the
// memory's rate: all of them together wait for memory, or for the second-level cache, through which each
// block reads the columns once for all its row warps, or the one with most blocks for itself. Splitting the
// inputs costs a barrier and sums, about a quarter of a unit for each warp.
double cost_of(const Partition& partition, const Layer& layer, int64_t column_bytes,
               int64_t multiprocessors) {
  const int64_t blocks = block_count(layer, partition.row_warps);
  const int64_t spans = ceil_div(layer.in_features, kSpanInputs);
  const int64_t rounds = ceil_div(spans, partition.input_warps);
  const auto of_block = static_cast<double>(partition.row_warps * rounds * partition.input_warps);
  const double of_each = static_cast<double>(blocks) / static_cast<double>(multiprocessors);
  const auto of_busiest = static_cast<double>(ceil_div(blocks, multiprocessors));

  const double warps = std::min(of_each * partition.row_warps * partition.input_warps, kResidentWarps);
  const double memory = of_each * of_block * std::max(1.0, kBytesUnderWay / (warps * kSuperblockBytes));
  const auto unit_bytes = static_cast<double>(layer.active * kSuperblockBytes);
  const double columns = static_cast<double>(spans * column_bytes) / unit_bytes;
  const double cache = of_each * (of_block + columns) / kCacheRate;
  return std::max({memory, cache, of_busiest * of_block / kSpareRate}) + 0.25 * partition.input_warps;
}

// The partition of least cost; among equals the one with fewest splits of a row, then the smallest block.
// With `input_warps` given, among those that have so many.
Partition least_cost(const Layer& layer, int64_t column_bytes, int64_t multiprocessors, int32_t given = 0) {
  const int64_t spans = ceil_div(layer.in_features, kSpanInputs);
  Partition best{1, std::max(given, 1)};
  double least = cost_of(best, layer, column_bytes, multiprocessors);
  for (int32_t input_warps = 1; input_warps <= kMaxWarps && input_warps <= spans; input_warps *= 2) {
    if (given != 0 && input_warps != given) continue;
    for (int32_t row_warps = 1; row_warps * input_warps <= kMaxWarps; row_warps *= 2) {
      const Partition candidate{row_warps, input_warps};
      const double cost = cost_of(candidate, layer, column_bytes, multiprocessors);
      if (cost < least) {
        best = candidate;
        least = cost;
      }
    }
  }
  return best;
}

// A result depends on how its row is split, so the number of tokens has no part in that; how many rows share
// the columns is free.
Partition choose_partition(const Layer& layer, int64_t column_bytes, int64_t multiprocessors) {
  const Partition split = least_cost(layer, kTypicalColumns * kSpanInputs, multiprocessors);
  return least_cost(layer, column_bytes, multiprocessors, split.input_warps);
}

bool one_bit_digits(const Layer& layer) {
  int32_t end = 0;
  for (int32_t d = 0; end < layer.active; end += layer.digits.widths[d++]) {
    if (layer.digits.widths[d] != 1) return false;
  }
  return true;
}

// Tiles of eight columns in a pass: two where there are that many columns and a kernel for it.
int32_t column_tiles_of(const Layer& layer, bool grouped, int64_t columns) {
  if (columns <= kTileColumns) return 1;
  const Form form = form_of(layer);
  if (!grouped) return whole_kernel(form, 2) != nullptr ? 2 : 1;
  return (layer.unit == Unit::inputs_32 ? kernel_by_32(form, 2) : kernel_by_128(form, 2)) != nullptr ? 2 : 1;
}

Refusal refuse_b1(const Layer& layer, const ActivationKind& kind, int64_t tokens,
                  const lowbit_cuda_device& device) {
  if (!architecture_of(device.architecture).b1) return Refusal::architecture;
  if (is_grouped(layer, kind)) return Refusal::grouped_sums;
  if (!one_bit_digits(layer)) return Refusal::wide_digits;
  if (tokens * kind.planes_per_token() > kPassColumns) return Refusal::many_planes;
  return Refusal::none;
}

template <class... T>
std::string text(const char* format, T... values) {
  char buffer[320];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

using Integer = long long;

}  // namespace

const char* name_of(Kernel kernel) {
  static constexpr const char* kNames[kKernels] = {"imma_gemv", "b1_gemv", "gemm", "fp32"};
  return kNames[static_cast<int>(kernel)];
}

Plan choose(const Layer& layer, const ActivationKind& kind, int64_t tokens,
            const lowbit_cuda_device& device) {
  Plan plan{};
  auto& [imma_gemv, b1_gemv, gemm, fp32] = plan.refusals;
  if (kind.exact()) {
    plan.kernel = Kernel::fp32;
    imma_gemv = b1_gemv = gemm = Refusal::wants_exact;
    plan.columns = tokens;
    plan.passes = tokens > 0 ? 1 : 0;
    return plan;
  }
  fp32 = Refusal::not_exact;
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

  const bool grouped = is_grouped(layer, kind);
  const bool b1 = plan.kernel == Kernel::b1_gemv;
  plan.columns = tokens * (b1 ? kind.planes_per_token() : kind.columns_per_token());
  plan.column_tiles = b1 ? static_cast<int32_t>(ceil_div(plan.columns, kTileColumns))
                         : column_tiles_of(layer, grouped, plan.columns);
  plan.passes = ceil_div(plan.columns, kTileColumns * std::max(plan.column_tiles, 1));
  const int64_t of_pass = std::min(plan.columns, kTileColumns * std::max(plan.column_tiles, 1));
  const int64_t column_bytes = of_pass * (b1 ? kSpanInputs / 8 : kSpanInputs);
  plan.partition = choose_partition(layer, column_bytes, device.multiprocessors);
  plan.blocks = block_count(layer, plan.partition.row_warps);
  return plan;
}

std::string reason(const Plan& plan, const Layer& layer, const ActivationKind& kind, int64_t tokens,
                   const lowbit_cuda_device& device) {
  switch (plan.kernel) {
    case Kernel::fp32:
      return "precision exact keeps activations in fp32: products on the CUDA cores";
    case Kernel::gemm:
      return text("%lld tokens are more than %lld: %lld columns share the weight's expansion in registers",
                  Integer{tokens}, Integer{kGemvTokens}, Integer{kGemmColumns});
    case Kernel::b1_gemv:
      return text("%s on sm_%d, and %lld tokens of %d bit planes fit one reading of the weight",
                  architecture_of(device.architecture).b1_why, device.architecture, Integer{tokens},
                  kind.planes_per_token());
    case Kernel::imma_gemv:
      break;
  }
  return text(
      "%lld tokens of %d int8 columns, weights expanded inside the tensor core operand: %lld blocks of %d x "
      "%d warps "
      "(rows x inputs) on %d multiprocessors; sums leave the integers %s",
      Integer{tokens}, kind.columns_per_token(), Integer{plan.blocks}, plan.partition.row_warps,
      plan.partition.input_warps, device.multiprocessors,
      is_grouped(layer, kind) ? (layer.unit == Unit::inputs_32 ? "every 32 inputs" : "every 128 inputs")
                              : "at the end of a row");
}

std::string reason_against(Kernel kernel, const Plan& plan, const Layer& layer, const ActivationKind& kind,
                           int64_t tokens, const lowbit_cuda_device& device) {
  switch (plan.refusals[static_cast<int>(kernel)]) {
    case Refusal::none:
      break;
    case Refusal::wants_exact:
      return "precision exact: activations must not be quantised";
    case Refusal::not_exact:
      return "activations are quantised, and fp32 products would need many times the instructions";
    case Refusal::grouped_sums:
      return kind.fast()
                 ? "activations have a scale for every 128 inputs: sums leave the integers inside a row"
                 : text("the weight has a scale for every %d inputs: sums leave the integers inside a row",
                        static_cast<int>(layer.unit));
    case Refusal::wide_digits:
      return "the weight has digits of more than one bit";
    case Refusal::architecture:
      return architecture_of(device.architecture).b1_why;
    case Refusal::many_planes:
      return text("%lld tokens of %d bit planes do not fit one reading of the weight, which takes %lld",
                  Integer{tokens}, kind.planes_per_token(), Integer{kPassColumns});
    case Refusal::few_tokens:
      return text("%lld tokens are not more than %lld: a tile of %lld columns would be mostly empty",
                  Integer{tokens}, Integer{kGemvTokens}, Integer{kGemmColumns});
    case Refusal::many_tokens:
      return text(
          "%lld tokens are more than %lld: the weight would be read and expanded once for every %lld columns",
          Integer{tokens}, Integer{kGemvTokens}, Integer{kPassColumns});
    case Refusal::slower:
      return "as many bytes, but four times the instructions per weight of one-bit products";
  }
  return "";
}

}  // namespace lowbit::cuda
