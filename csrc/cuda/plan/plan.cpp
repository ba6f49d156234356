#include "cuda/plan/plan.h"

#include <algorithm>

#include "cuda/bits/gemv.h"
#include "cuda/plan/architectures.h"
#include "cuda/plan/json.h"

namespace lowbit::cuda {
namespace {

constexpr int64_t kPassColumns = 16;  // of a GEMV: B columns that share one reading of the weight
constexpr int64_t kGemmColumns = 64;
constexpr int64_t kGemmTokens = 256;  // beyond, the weight is expanded once for all of them; not yet measured
constexpr int64_t kTileColumns = 8;
constexpr int32_t kMaxSplits = 16;  // of the inputs over blocks

// Memory answers after about 700 ns. To keep 3.35 TB/s busy that long, each of 132 multiprocessors must have
// 18 KB under way; a third more for newer memory and for what the loads of a loop leave idle.
constexpr double kBytesUnderWay = 24 << 10;
constexpr double kResidentWarps = 8;  // of a multiprocessor, at up to 255 registers a thread
// One multiprocessor can read twice its share of what memory delivers to all; with 16 columns the tensor
// cores multiply 1.25 times that share of one-bit weights.
constexpr double kSpareRate = 2;
constexpr double kSpareMultiplies = 20;  // columns
// Shared memory of a block on every target, less what the system takes.
constexpr int64_t kSharedBytes = 96 << 10;
// What rows whose sums depend on the split are split for: four tokens at `high`. A finer split keeps more
// bytes under way at one token, a coarser one leaves more warps to share the columns of a full pass.
constexpr int64_t kTypicalTokens = 4;

// Rows that are expanded at a time: as many as give the caller's matrix product two tiles of its result,
// 128 x 128, for every multiprocessor, so that its last turn costs little; and no more than fit this memory.
constexpr int64_t kResultTile = 128;
constexpr int64_t kResultTiles = 2;
constexpr int64_t kTileBytes = 64 << 20;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A GEMV as the choice of its partition sees it.
struct Product {
  const Layer& layer;
  bool grouped;
  bool b1;
  int32_t per_token;  // columns
  int64_t tokens;     // of a pass
  int64_t multiprocessors;
  const Architecture& architecture;

  int64_t spans() const { return ceil_div(layer.in_features, kSpanInputs); }
  int64_t row_tiles(const Partition& partition) const {
    return b1 ? partition.row_warps : shape(partition).row_tiles;
  }
  GemvShape shape(const Partition& partition) const {
    return gemv_shape(layer, grouped, per_token, tokens, partition);
  }
  // The same for every number of tokens where the split of a row is.
  int64_t shared_bytes(const Partition& partition) const {
    if (b1) return 0;
    const int64_t most = grouped ? kPassColumns / per_token : tokens;
    return gemv_shape(layer, grouped, per_token, most, partition).shared_bytes;
  }
};

// Time of a product, in units of what a multiprocessor takes for one superblock of one-bit digits at its
// share of the memory's rate: all of them together wait for memory, or for the second-level cache, through
// which each block reads the columns of its inputs once for all its rows, or the one with most blocks for
// itself. Splitting inputs inside a block costs a barrier and sums, about a quarter of a unit for each warp;
// where blocks share rows they write their sums, count, and the last one reads them, about a microsecond.
double cost_of(const Partition& partition, const Product& product) {
  const Layer& layer = product.layer;
  const int64_t tiles = product.row_tiles(partition);
  const int64_t blocks = row_blocks(layer, tiles) * partition.splits;
  const int64_t spans = ceil_div(product.spans(), partition.splits);
  const int64_t rounds = ceil_div(spans, partition.input_warps);
  const auto of_block = static_cast<double>(tiles * rounds * partition.input_warps);
  const double of_each = static_cast<double>(blocks) / static_cast<double>(product.multiprocessors);
  const auto of_busiest = static_cast<double>(ceil_div(blocks, product.multiprocessors));

  const double warp_tiles = static_cast<double>(tiles) / partition.row_warps;
  const double warps = std::min(of_each * partition.row_warps * partition.input_warps, kResidentWarps);
  const double under_way = warps * warp_tiles * kSuperblockBytes;
  const double memory = of_each * of_block * std::max(1.0, kBytesUnderWay / under_way);

  const auto columns = static_cast<double>(product.tokens * product.per_token);
  const auto unit_bytes = static_cast<double>(layer.active * kSuperblockBytes);
  const double column_bytes = columns * kSpanInputs / (product.b1 ? 8 : 1);
  double cached = of_block + static_cast<double>(spans) * column_bytes / unit_bytes;
  if (partition.splits > 1) {
    const auto sums = static_cast<double>(tiles * kRowTile * product.tokens * int64_t{sizeof(int32_t)});
    cached += 2 * sums / unit_bytes;  // written and read
  }
  const double spare = product.b1 ? kSpareRate : std::min(kSpareRate, kSpareMultiplies / columns);
  return std::max(
             {memory, of_each * cached / product.architecture.cache_rate, of_busiest * of_block / spare}) +
         0.25 * partition.input_warps + (partition.splits > 1 ? product.architecture.arrival : 0.0);
}

// The partition of least cost; among equals the one with fewest splits of a row, then the smallest block.
// `given`: null, or whose split of a row to keep.
Partition least_cost(const Product& product, const Partition* given) {
  const int64_t spans = product.spans();
  Partition best{0, 1, 1};
  double least = 0;
  const int32_t most_splits =
      product.b1 ? 1 : static_cast<int32_t>(std::min<int64_t>(kMaxSplits, ceil_div(spans, 2)));
  for (int32_t splits = 1; splits <= most_splits; ++splits) {
    for (int32_t input_warps = 1; input_warps <= kMaxWarps && input_warps * splits <= spans;
         input_warps *= 2) {
      if (given != nullptr && (given->splits != splits || given->input_warps != input_warps)) continue;
      for (int32_t row_warps = 1; row_warps * input_warps <= kMaxWarps; ++row_warps) {
        const Partition candidate{row_warps, input_warps, splits};
        if (product.shared_bytes(candidate) > kSharedBytes) continue;
        const double cost = cost_of(candidate, product);
        if (best.row_warps == 0 || cost < least) {
          best = candidate;
          least = cost;
        }
      }
    }
  }
  return best;
}

// Whole rows have integer sums, which no split changes. Elsewhere a result depends on how its row is split,
// so the number of tokens has no part in that; how many rows share the columns is free.
Partition choose_partition(const Product& product) {
  if (!product.grouped) return least_cost(product, nullptr);
  Product typical = product;
  typical.tokens = kTypicalTokens * 2 / product.per_token;
  const Partition split = least_cost(typical, nullptr);
  return least_cost(product, &split);
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
  if (tokens <= kGemmTokens) return Refusal::few_tokens;
  return device.matmul == nullptr ? Refusal::no_matmul : Refusal::none;
}

void divide_rows(const Layer& layer, int64_t tokens, const lowbit_cuda_device& device, Plan& plan) {
  const int64_t side = ceil_div(std::min(tokens, kTurnTokens), kResultTile);
  const int64_t wanted = ceil_div(kResultTiles * device.multiprocessors, side);
  const int64_t row_bytes = ceil_div(layer.in_features, kHalfAlign) * kHalfAlign * 2;
  const int64_t allowed = std::max<int64_t>(kTileBytes / (row_bytes * kResultTile), 1);
  int64_t most = 0;
  for (int32_t s = 0; s < layer.num_segments; ++s) {
    most = std::max(most, row_tiles(layer.segments[s].out_features) * kRowTile);
  }
  plan.tile_rows = std::min(std::min(wanted, allowed) * kResultTile, most);
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
  const int32_t tiles = b1 ? 2 : gemv_shape(layer, grouped, per_token, tokens, {1, 1, 1}).column_tiles;
  const Product product{layer,
                        grouped,
                        b1,
                        per_token,
                        std::min(tokens, kTileColumns * tiles / per_token),
                        device.multiprocessors,
                        architecture_of(device.architecture)};
  plan.partition = choose_partition(product);
  if (b1) {
    plan.column_tiles = static_cast<int32_t>(ceil_div(plan.columns, kTileColumns));
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
          Integer{tokens}, Integer{kGemmTokens}, Integer{plan.tile_rows});
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
            Integer{tokens}, Integer{kGemmTokens});
      }
      return sentence("%lld tokens are not more than %lld: a tile of %lld columns would be mostly empty",
                      Integer{tokens}, Integer{kGemvTokens}, Integer{kGemmColumns});
    case Refusal::many_tokens:
      if (kernel == Kernel::gemm) {
        return sentence(
            "%lld tokens are more than %lld: the weight would be expanded once for every %lld columns",
            Integer{tokens}, Integer{kGemmTokens}, Integer{kGemmColumns});
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
