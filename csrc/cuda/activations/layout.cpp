// Where the parts of staged activations lie in the caller's memory.
#include <algorithm>

#include "cuda/activations/prologue.h"

namespace lowbit::cuda {
namespace {

// Hands out parts of a piece of memory, from its beginning; without memory it counts.
class Parts {
 public:
  explicit Parts(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    constexpr size_t kAlign = 256;
    T* const part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return part;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* memory_;
  size_t bytes_ = 0;
};

int64_t padded(int64_t in_features, int64_t align = kInputAlign) {
  return (in_features + align - 1) / align * align;
}

int32_t sums_of_token(Unit unit, int64_t padded_inputs) {
  return unit == Unit::row ? 1 : static_cast<int32_t>(padded_inputs / static_cast<int32_t>(unit));
}

}  // namespace

Columns layout_columns(const Staging& staging, const ActivationKind& kind, void* memory, size_t* bytes) {
  Columns out{};
  out.tokens = staging.tokens;
  out.padded_inputs = padded(staging.in_features);
  out.sets = staging.sets;
  out.per_token = kind.columns_per_token();
  out.scale_groups = staging.grouped ? static_cast<int32_t>(out.padded_inputs / kScaleInputs) : 1;
  out.units = sums_of_token(staging.unit, out.padded_inputs);
  out.experts = staging.experts;
  out.start = staging.subnormal ? kScaleInputs * kind.code_limit() : 0;

  const int64_t tokens = out.sets * out.tokens;
  const auto values = [&](int32_t each) {
    return each == 1 ? tokens : out.sets * out.token_tiles() * kTileTokens * each;
  };
  Parts parts(memory);
  out.codes = parts.take<int8_t>(out.sets * out.column_tiles() * kTileColumns * out.padded_inputs);
  out.scales = parts.take<float>(values(out.scale_groups));
  out.sums = parts.take<float>(staging.grouped ? values(out.units) : 0);
  out.groups = parts.take<float2>(staging.subnormal ? out.sets * out.group_values() : 0);
  out.ranges = parts.take<float>(staging.subnormal ? tokens : 0);
  out.totals = parts.take<int32_t>(staging.grouped ? 0 : tokens * out.per_token);
  out.gates = parts.take<float>(tokens * out.experts);
  out.arrival_count = staging.arrivals;
  out.arrivals = parts.take<uint32_t>(staging.arrivals);
  out.partial_sums = parts.take<char>(staging.partial_bytes);
  *bytes = parts.bytes();
  return out;
}

FloatColumns layout_floats(const Staging& staging, void* memory, size_t* bytes) {
  FloatColumns out{};
  out.tokens = staging.tokens;
  out.padded_inputs = padded(staging.in_features);
  out.sets = staging.sets;
  out.experts = staging.experts;

  const int64_t tokens = out.sets * out.tokens;
  Parts parts(memory);
  out.values = parts.take<float>(tokens * out.padded_inputs);
  out.gates = parts.take<float>(tokens * out.experts);
  *bytes = parts.bytes();
  return out;
}

HalfColumns layout_halves(const Staging& staging, void* memory, size_t* bytes) {
  HalfColumns out{};
  out.tokens = staging.tokens;
  out.padded_inputs = padded(staging.in_features);
  out.row_inputs = padded(staging.in_features, kHalfAlign);
  out.sets = staging.sets;
  out.experts = staging.experts;
  out.tile_rows = staging.tile_rows;

  const int64_t tokens = out.sets * out.tokens;
  Parts parts(memory);
  out.values = parts.take<__half>(tokens * out.row_inputs);
  out.scales = parts.take<float>(tokens);
  out.gates = parts.take<float>(tokens * out.experts);
  out.tile = parts.take<__half>(out.tile_rows * out.row_inputs);
  out.tile_scales = parts.take<float>(out.tile_rows);
  out.sums = parts.take<float>(out.tokens * out.tile_rows);
  *bytes = parts.bytes();
  return out;
}

Planes layout_planes(const Staging& staging, const ActivationKind& kind, void* memory, size_t* bytes) {
  Planes out{};
  out.tokens = staging.tokens;
  out.padded_inputs = padded(staging.in_features);
  out.sets = staging.sets;
  out.per_token = kind.planes_per_token();
  out.bits = kind.bits;
  out.experts = staging.experts;

  const int64_t tokens = out.sets * out.tokens;
  Parts parts(memory);
  out.words = parts.take<uint32_t>(tokens * out.per_token * (out.padded_inputs / 32));
  out.scales = parts.take<float>(tokens);
  out.totals = parts.take<int64_t>(tokens);
  out.gates = parts.take<float>(tokens * out.experts);
  *bytes = parts.bytes();
  return out;
}

}  // namespace lowbit::cuda
