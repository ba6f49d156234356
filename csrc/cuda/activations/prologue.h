// The prologue: everything that happens to x before the product, in one launch.
//
//   router dots, softmax      gates = softmax(x router^T)          segments with two experts or more
//   mix                       z = x * (gates in_scales)            segments with experts
//   quantise                  codes, scales and sums of z          or z itself, for `exact`
//
// It writes one of the forms of cuda/activations/columns.h into memory that the caller has.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/activations/columns.h"
#include "cuda/launch.h"
#include "lowbit.h"

namespace lowbit::cuda {

inline constexpr int kMaxSegments = 8;
inline constexpr int kMaxExperts = 32;  // a warp holds the gates, one a lane

// Inputs that share one scale of the weight; sums of the activations are kept by the same units.
enum class Unit : int32_t { row = 0, inputs_32 = 32, inputs_128 = 128 };

// How activations become integers.
struct ActivationKind {
  lowbit_precision precision;  // where bits == 0
  int32_t bits;                // 1..8: bipolar codes of that width; 0: `precision` decides

  bool exact() const { return bits == 0 && precision == LOWBIT_EXACT; }
  bool fast() const { return bits == 0 && precision == LOWBIT_FAST; }
  // A power of two above the codes of a token that has one column.
  int32_t code_limit() const { return bits == 0 ? 128 : 1 << bits; }
  int32_t columns_per_token() const { return (bits == 0 && precision == LOWBIT_HIGH) || bits == 8 ? 2 : 1; }
  int32_t planes_per_token() const { return bits == 0 ? 16 : bits + 1; }
};

// What one set of prepared activations is made with. experts == 0: z = x. experts == 1: no router.
struct Mix {
  const void* router;     // [experts][in_features]
  const void* in_scales;  // [experts][in_features]
  lowbit_dtype dtype;     // of both
  int32_t experts;
};

struct PrologueInput {
  const void* x;
  lowbit_dtype dtype;
  int64_t stride;  // elements from one token to the next
  int64_t tokens;
  int64_t in_features;
  int32_t sets;
  Mix mixes[kMaxSegments];  // one per set
};

// What the product wants prepared.
struct Staging {
  int64_t tokens;
  int64_t in_features;
  int32_t sets;
  int32_t experts;  // the most of any set
  // Columns alone:
  bool grouped;            // scales by 128 inputs and sums by `unit`, or one scale and totals
  Unit unit;               // of the weight's scales
  float sums_factor;       // of the sums; 1 where not grouped
  bool subnormal = false;  // sums are read as subnormal numbers
  // Room for the product's own use, see Columns and HalfColumns:
  int64_t arrivals = 0;
  int64_t partial_bytes = 0;
  int64_t tile_rows = 0;
};

// The memory of a form, beginning at `memory`, which may be null: then only the size is of use. The result is
// a function of the arguments alone, so that a size asked for before is the size needed later.
Columns layout_columns(const Staging& staging, const ActivationKind& kind, void* memory, size_t* bytes);
FloatColumns layout_floats(const Staging& staging, void* memory, size_t* bytes);
HalfColumns layout_halves(const Staging& staging, void* memory, size_t* bytes);
Planes layout_planes(const Staging& staging, const ActivationKind& kind, void* memory, size_t* bytes);

// Launch the prologue; `out` comes from the functions above. Nothing for no tokens.
void stage(const PrologueInput& input, const Staging& staging, const ActivationKind& kind, const Columns& out,
           Stream stream);
void stage(const PrologueInput& input, const FloatColumns& out, Stream stream);
void stage(const PrologueInput& input, const HalfColumns& out, Stream stream);
void stage(const PrologueInput& input, const ActivationKind& kind, const Planes& out, Stream stream);

}  // namespace lowbit::cuda
