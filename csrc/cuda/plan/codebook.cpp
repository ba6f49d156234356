#include "cuda/plan/codebook.h"

#include <algorithm>

#include "cuda/codebook/dense_block.h"
#include "cuda/codebook/tables.h"
#include "cuda/plan/architectures.h"
#include "cuda/plan/matmul.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int64_t kWarpsInFlight = 24;  // of a multiprocessor, that scalar look-ups should have

using Integer = long long;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t superblocks_of(const ScalarWeight& weight) {
  return ceil_div(weight.in_features, kSuperblock);
}

// Of the longest row that warps can have, whatever the number of columns.
int64_t longest_row() {
  return int64_t{kSelectorWarps4Bits} * kMostSuperblocks * kSuperblock;
}

// Warps that share a tile: so many that about kWarpsInFlight are there for each multiprocessor.
int32_t selector_warps(int64_t tiles, int64_t superblocks, int32_t multiprocessors, int32_t most) {
  int32_t warps = 2;
  while (warps < most && warps < superblocks && warps * tiles < kWarpsInFlight * multiprocessors) warps *= 2;
  while (warps < most && superblocks > warps * kMostSuperblocks) warps *= 2;
  return warps;
}

size_t entries_bytes(const VectorWeight& weight, int32_t copies) {
  return size_t{2} * weight.num_codebooks * kEntries * weight.vector_size * copies;
}

size_t tensor_bytes(const VectorWeight& weight, int32_t copies) {
  return kTensorPartialBytes + entries_bytes(weight, copies);
}

// What the caller's matrix product needs, whatever the weight.
Refusal refuse_matmul(int64_t tokens, const lowbit_cuda_device& device) {
  if (tokens <= kMatmulTokens) return Refusal::few_tokens;
  return device.matmul == nullptr ? Refusal::no_matmul : Refusal::none;
}

// The plan with the caller's matrix product, or `own` with the reason why not.
Plan with_matmul(Plan own, Refusal refusal, int64_t out_features, int64_t in_features, int64_t tokens,
                 const lowbit_cuda_device& device) {
  if (refusal != Refusal::none) {
    own.rejected[1] = Kernel::matmul;
    own.refusals[1] = refusal;
    return own;
  }
  Plan plan{};
  plan.kernel = Kernel::matmul;
  plan.rejected[0] = own.kernel;
  plan.refusals[0] = Refusal::many_tokens;
  plan.rejected[1] = own.rejected[0];
  plan.refusals[1] = own.refusals[0];
  plan.columns = tokens;
  plan.passes = plan.ranges = plan.row_warps = plan.input_warps = 1;
  plan.tile_rows = matmul_tile_rows(in_features, out_features, std::min(tokens, kMostTokens), device);
  plan.blocks = ceil_div(plan.tile_rows, kTileRows);
  return plan;
}

std::string reason_for_matmul(const Plan& plan, int64_t tokens) {
  return sentence(
      "%lld tokens are more than %lld: %lld rows of the weight at a time are expanded to fp16 and "
      "multiplied by the caller's matrix product",
      Integer{tokens}, Integer{kMatmulTokens}, Integer{plan.tile_rows});
}

// What can be said of any weight; empty: nothing.
std::string common_reason_against(Kernel kernel, Refusal refusal) {
  switch (refusal) {
    case Refusal::few_tokens:
      return sentence("no more than %lld tokens: the expanded weight would cost more than it saves",
                      Integer{kMatmulTokens});
    case Refusal::no_matmul:
      return "the caller lends no matrix product with sums in fp32";
    case Refusal::integers:
      return "precision fast: activations have a scale for every 128 inputs, and products are integers";
    case Refusal::many_tokens:
      return "so many tokens would read, and look up, the whole weight many times";
    case Refusal::wants_exact:
      if (kernel == Kernel::matmul) return "precision exact: nothing must be rounded to fp16";
      return {};
    default:
      return {};
  }
}

}  // namespace

const char* name_of(Kernel kernel) {
  static constexpr const char* kNames[] = {"selectors", "tensor", "gather", "label_sums", "fp32", "matmul"};
  return kNames[static_cast<int>(kernel)];
}

namespace {

Plan choose_own(const ScalarWeight& weight, lowbit_precision precision, int64_t tokens,
                const lowbit_cuda_device& device) {
  Plan plan{};
  plan.ranges = plan.row_warps = 1;
  const int64_t tiles = ceil_div(weight.out_features, kTileRows);
  plan.blocks = tiles;
  Refusal& refusal = plan.refusals[0];
  refusal = precision == LOWBIT_EXACT            ? Refusal::wants_exact
            : !has_selectors(weight.bits)        ? Refusal::table_size
            : weight.in_features > longest_row() ? Refusal::long_rows
                                                 : Refusal::slower;
  if (refusal != Refusal::slower) {
    plan.kernel = Kernel::fp32;
    plan.rejected[0] = Kernel::selectors;
    plan.columns = tokens;
    plan.passes = ceil_div(tokens, kFloatsTokens);
    plan.input_warps = kFloatsWarps;
    plan.shared_bytes = int64_t{sizeof(float)} * kTileRows << weight.bits;
    return plan;
  }
  plan.kernel = Kernel::selectors;
  plan.rejected[0] = Kernel::fp32;
  const bool fast = precision == LOWBIT_FAST;
  plan.columns = tokens * ActivationKind{precision, 0}.columns_per_token();
  plan.column_tiles = plan.columns <= 8 ? 1 : fast ? 2 : 4;
  plan.passes = ceil_div(plan.columns, 8 * plan.column_tiles);
  plan.input_warps = selector_warps(tiles, superblocks_of(weight), device.multiprocessors,
                                    most_selector_warps(weight.bits, plan.column_tiles));
  plan.shared_bytes = int64_t{32} * plan.input_warps * plan.column_tiles * 16;
  return plan;
}

Plan choose_own(const VectorWeight& weight, lowbit_precision precision, bool two_columns, int64_t tokens,
                const lowbit_cuda_device& device) {
  Plan plan{};
  plan.ranges = 1;
  const auto limit = static_cast<size_t>(architecture_of(device.architecture).block_shared_kb) << 10;
  Refusal& refusal = plan.refusals[0];
  refusal = precision == LOWBIT_EXACT         ? Refusal::wants_exact
            : !has_halves(weight.vector_size) ? Refusal::vector_size
            : tensor_bytes(weight, 1) > limit ? Refusal::shared_memory
                                              : Refusal::slower;
  if (refusal != Refusal::slower) {
    plan.kernel = Kernel::fp32;
    plan.rejected[0] = Kernel::tensor;
    plan.columns = plan.passes = tokens;
    plan.row_warps = kSumsWarps;
    plan.input_warps = 1;
    // Ranges of chunks: two blocks for each multiprocessor with a single token, whatever the number of
    // tokens.
    const int64_t row_blocks = ceil_div(weight.tiles(), kSumsBlockTiles), chunks = weight.chunks();
    const int64_t wanted = std::min(ceil_div(2 * device.multiprocessors, row_blocks), chunks);
    plan.range_chunks = ceil_div(chunks, wanted);
    plan.ranges = ceil_div(chunks, plan.range_chunks);
    plan.blocks = row_blocks * plan.ranges;
    return plan;
  }
  plan.kernel = Kernel::tensor;
  plan.rejected[0] = Kernel::fp32;
  plan.columns = tokens * (two_columns ? 2 : 1);
  plan.passes = ceil_div(plan.columns, kTensorColumns);
  // As many copies as can be told apart, or as fit.
  plan.copies = 128 / (2 * weight.vector_size);
  while (tensor_bytes(weight, plan.copies) > limit) plan.copies /= 2;
  plan.shared_bytes = static_cast<int64_t>(tensor_bytes(weight, plan.copies));
  plan.input_warps = 1;
  while (plan.input_warps < kTensorWarps && 2 * plan.input_warps < weight.chunks()) plan.input_warps *= 2;
  plan.row_warps = kTensorWarps / plan.input_warps;
  const int64_t groups = ceil_div(weight.tiles(), kTensorTiles);
  plan.blocks = std::min<int64_t>(ceil_div(groups, plan.row_warps), device.multiprocessors);
  return plan;
}

}  // namespace

Plan choose(const ScalarWeight& weight, lowbit_precision precision, int64_t tokens,
            const lowbit_cuda_device& device) {
  const Refusal refusal = precision == LOWBIT_EXACT  ? Refusal::wants_exact
                          : precision == LOWBIT_FAST ? Refusal::integers
                                                     : refuse_matmul(tokens, device);
  return with_matmul(choose_own(weight, precision, tokens, device), refusal, weight.out_features,
                     weight.in_features, tokens, device);
}

Plan choose(const VectorWeight& weight, lowbit_precision precision, bool two_columns, int64_t tokens,
            const lowbit_cuda_device& device) {
  const Refusal refusal = precision == LOWBIT_EXACT         ? Refusal::wants_exact
                          : !has_halves(weight.vector_size) ? Refusal::vector_size
                                                            : refuse_matmul(tokens, device);
  return with_matmul(choose_own(weight, precision, two_columns, tokens, device), refusal, weight.out_features,
                     weight.in_features, tokens, device);
}

Plan choose(const lowbit_codebook_channel& weight, int64_t tokens, const lowbit_cuda_device&) {
  Plan plan{};
  plan.ranges = 1;
  const bool by_output = weight.axis == 0;
  plan.kernel = by_output ? Kernel::gather : Kernel::label_sums;
  plan.rejected[0] = by_output ? Kernel::label_sums : Kernel::gather;
  plan.refusals[0] = Refusal::other_axis;
  plan.columns = tokens;
  plan.passes = ceil_div(tokens, kDenseTokens);
  const int64_t dense_rows = (by_output ? weight.clusters : 0) + weight.rank;
  const auto dense_blocks = [](int64_t rows, int32_t warps) {
    return ceil_div(rows, kDenseRows * kDenseWarps / warps);
  };
  plan.input_warps = dense_warps(weight.in_features);
  plan.row_warps = kDenseWarps / plan.input_warps;
  plan.blocks = dense_blocks(dense_rows, plan.input_warps) +
                (by_output ? 0 : ceil_div(weight.clusters, kLabelsOfBlock));
  plan.second_warps = by_output ? 1 : dense_warps(weight.clusters);
  plan.second_blocks = by_output ? ceil_div(weight.out_features, kLabelsOfBlock)
                                 : dense_blocks(weight.out_features, plan.second_warps);
  return plan;
}

std::string reason(const Plan& plan, const ScalarWeight& weight, int64_t tokens,
                   const lowbit_cuda_device& device) {
  if (plan.kernel == Kernel::matmul) return reason_for_matmul(plan, tokens);
  if (plan.kernel == Kernel::fp32) {
    return sentence("%lld tokens, look-ups in shared memory and fp32 sums for %d of them at a time",
                    Integer{tokens}, kFloatsTokens);
  }
  return sentence(
      "tables of %d entries fit the registers of a byte permutation: %lld columns, %d at a time; %d warps "
      "share the inputs of each of %lld tiles of %d rows, on %d multiprocessors",
      1 << weight.bits, Integer{plan.columns}, 8 * plan.column_tiles, plan.input_warps, Integer{plan.blocks},
      kTileRows, device.multiprocessors);
}

std::string reason_against(Kernel kernel, Refusal refusal, const ScalarWeight& weight,
                           const lowbit_cuda_device&) {
  if (const std::string common = common_reason_against(kernel, refusal); !common.empty()) return common;
  switch (refusal) {
    case Refusal::wants_exact:
      return "precision exact: table entries must not be rounded to fixed point";
    case Refusal::table_size:
      return sentence("a byte permutation holds tables of 4, 8 or 16 entries, not of %d", 1 << weight.bits);
    case Refusal::long_rows:
      return sentence("rows of %lld inputs: the integer sums of a block's warps hold %lld",
                      Integer{weight.in_features}, Integer{longest_row()});
    default:
      return "as many bytes, but look-ups one by one and no tensor cores: many times the instructions";
  }
}

std::string reason(const Plan& plan, const VectorWeight& weight, int64_t tokens,
                   const lowbit_cuda_device& device) {
  if (plan.kernel == Kernel::matmul) return reason_for_matmul(plan, tokens);
  if (plan.kernel == Kernel::fp32) {
    return sentence(
        "products of all %d entries with the inputs once for each of %lld tokens, then sums by code; %lld "
        "blocks divide the inputs of a row",
        weight.num_codebooks * kEntries, Integer{tokens}, Integer{plan.ranges});
  }
  return sentence(
      "entries are operands of the tensor cores as they lie in shared memory, %d copies each: %lld columns, "
      "%d at a time; blocks of %d x %d warps (rows x inputs), %lld on %d multiprocessors",
      plan.copies, Integer{plan.columns}, kTensorColumns, plan.row_warps, plan.input_warps,
      Integer{plan.blocks}, device.multiprocessors);
}

std::string reason_against(Kernel kernel, Refusal refusal, const VectorWeight& weight,
                           const lowbit_cuda_device& device) {
  if (const std::string common = common_reason_against(kernel, refusal); !common.empty()) return common;
  switch (refusal) {
    case Refusal::wants_exact:
      return "precision exact: entries must not be rounded to fp16";
    case Refusal::vector_size:
      return sentence(kernel == Kernel::matmul
                          ? "entries are kept in fp16 for vectors of 4 or 8 inputs, not of %d"
                          : "an operand's registers hold vectors of 4 or 8 inputs, not of %d",
                      weight.vector_size);
    case Refusal::shared_memory:
      return sentence("%d codebooks take %lld KB of shared memory, a block on sm_%d has %d",
                      weight.num_codebooks,
                      Integer(ceil_div(static_cast<int64_t>(tensor_bytes(weight, 1)), 1024)),
                      device.architecture, architecture_of(device.architecture).block_shared_kb);
    default:
      return "it multiplies every entry and looks up every code once for each token";
  }
}

std::string reason(const Plan& plan, const lowbit_codebook_channel& weight) {
  if (plan.kernel == Kernel::gather) {
    return sentence("%lld shared rows and %lld of the low rank, then %lld outputs take theirs by label",
                    Integer{weight.clusters}, Integer{weight.rank}, Integer{weight.out_features});
  }
  return sentence("%lld inputs are summed by label first: %lld dense columns and %lld of the low rank",
                  Integer{weight.in_features}, Integer{weight.clusters}, Integer{weight.rank});
}

std::string reason_against(Kernel, Refusal, const lowbit_codebook_channel& weight,
                           const lowbit_cuda_device&) {
  return weight.axis == 0 ? "labels name the outputs, not the inputs"
                          : "labels name the inputs, not the outputs";
}

std::string explain(const Plan& plan, const std::string& reason, const std::string& rejected, int64_t tokens,
                    int64_t launches, const Traffic& traffic) {
  Json json;
  json.add("kernel", std::string(name_of(plan.kernel)));
  json.add("reason", reason);
  json.add("launches", launches);
  json.add("segments", int64_t{1});
  json.add("tokens", tokens);
  json.add("columns", plan.columns);
  json.add("passes", plan.passes);
  json.add("row_warps", plan.row_warps);
  json.add("input_warps", plan.input_warps);
  json.add("splits", plan.ranges);
  json.add("blocks", plan.blocks);
  json.add("shared_bytes", plan.shared_bytes);
  if (plan.copies > 0) json.add("copies", plan.copies);
  if (plan.tile_rows > 0) json.add("tile_rows", plan.tile_rows);
  if (plan.second_blocks > 0) {
    json.add("second_blocks", plan.second_blocks);
    json.add("second_input_warps", plan.second_warps);
  }
  Json bytes;
  bytes.add("weight", traffic.weight);
  bytes.add("scales", traffic.scales);
  bytes.add("workspace", traffic.workspace);
  json.add_raw("bytes", bytes.object());
  json.add_raw("rejected", rejected);
  return json.object();
}

}  // namespace lowbit::cuda::codebook
