#include "cuda/plan/partition.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>

namespace lowbit::cuda {
namespace {

constexpr int64_t kMaxSplits = 16;  // of the inputs over blocks
// Shared memory of a block on every target, less what the system takes.
constexpr int64_t kSharedBytes = 96 << 10;
// What rows whose sums depend on their parts are cut for: for all of them the product of their times is
// least.
constexpr int64_t kTypicalTokens[] = {1, 4, 8, 16};

struct Choice {
  Partition partition{};
  double cost = std::numeric_limits<double>::infinity();
};

bool fits_shared(const Product& product, const Partition& partition) {
  return product.b1 ||
         gemv_shape(product.layer, product.grouped, product.per_token, product.tokens, partition)
                 .shared_bytes <= kSharedBytes;
}

// Of least cost where the inputs are cut into so many parts; among equals the smallest block.
Choice choose_for_parts(const Product& product, int32_t parts, int64_t most_splits) {
  Choice best;
  for (int32_t input_warps = 1; input_warps <= kMaxWarps && parts % input_warps == 0; input_warps *= 2) {
    const int32_t splits = parts / input_warps;
    if (splits > most_splits) continue;
    for (int32_t row_warps = 1; row_warps * input_warps <= kMaxWarps; ++row_warps) {
      const Partition candidate{row_warps, input_warps, splits};
      if (!fits_shared(product, candidate)) continue;
      const double cost = cost_of(product, candidate);
      if (cost < best.cost) best = {candidate, cost};
    }
  }
  return best;
}

Partition search(const Product& product) {
  const int64_t spans = (product.layer.in_features + kSpanInputs - 1) / kSpanInputs;
  const int64_t most_splits = product.b1 ? 1 : std::min(kMaxSplits, (spans + 1) / 2);
  const auto most_parts = static_cast<int32_t>(std::min(spans, kMaxWarps * most_splits));
  Choice best;
  for (int32_t parts = 1; parts <= most_parts; ++parts) {
    Choice choice = choose_for_parts(product, parts, most_splits);
    if (product.grouped) {
      choice.cost = 1;
      Product typical = product;
      for (const int64_t tokens : kTypicalTokens) {
        typical.tokens = tokens;
        choice.cost *= choose_for_parts(typical, parts, most_splits).cost;
      }
    }
    if (choice.cost < best.cost) best = choice;
  }
  return best.partition;
}

// All that a search looks at.
using Key = std::array<int64_t, 10 + kMaxDigits + kMaxSegments>;

Key key_of(const Product& product) {
  const Layer& layer = product.layer;
  Key key{};
  int64_t* next = key.data();
  for (const int64_t value :
       {product.tokens, layer.in_features, int64_t{product.per_token}, int64_t{product.grouped},
        int64_t{product.b1}, product.multiprocessors, int64_t{product.architecture.number},
        int64_t{layer.active}, static_cast<int64_t>(layer.unit), static_cast<int64_t>(layer.scales_dtype)}) {
    *next++ = value;
  }
  for (int32_t d = 0; d < layer.digits.count; ++d) next[d] = layer.digits.widths[d];
  next += kMaxDigits;
  for (int32_t s = 0; s < layer.num_segments; ++s) next[s] = layer.segments[s].out_features;
  return key;
}

}  // namespace

Partition choose_partition(const Product& product) {
  constexpr size_t kMost = 4096;  // far more than a model's layers have shapes
  thread_local std::map<Key, Partition> known;
  const Key key = key_of(product);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() == kMost) known.clear();
  return known.emplace(key, search(product)).first->second;
}

}  // namespace lowbit::cuda
