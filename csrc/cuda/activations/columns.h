// Activations as the products of csrc/cuda read them: what the prologue writes and the next kernel takes.
//
// A "set" is one prepared input. Segments of a fused layer share x; with experts each has its own set,
// because its input scales differ, without experts there is one set for all. Kp = in_features rounded up to
// kInputAlign.
#pragma once

#include <cstdint>

#include "cuda/device.h"

namespace lowbit::cuda {

inline constexpr int kInputAlign = 1024;  // inputs of the widest superblock of a digit tile (8 fields x 128)
inline constexpr int kScaleInputs = 128;  // inputs that share an activation scale in `fast`
inline constexpr int kTileColumns = 8;    // of a B operand
inline constexpr int kTileTokens = 8;     // whose scales and sums lie side by side
inline constexpr int kSpanFields = 8;     // of 128 inputs in a span
inline constexpr int kGroupTokens = 16;   // whose groups lie side by side
inline constexpr int kHalfAlign = 64;     // inputs in 128 bytes of fp16

// Bytes of a tile of columns: of 128 inputs, of half their steps, and of a column in that half.
inline constexpr int kGroupBytes = kTileColumns * kScaleInputs;
inline constexpr int kHalfGroupBytes = kGroupBytes / 2;
inline constexpr int kColumnBytes = kHalfGroupBytes / kTileColumns;

// What sums that are read as subnormal numbers count, times the range of their token: 2^-149 of the number
// times the 2^126 of its scale.
inline constexpr float kSubnormalUnit = 1.0f / (1 << 23);
// Where those of field `field` of one-bit digits start: they count 2^field times. Two fields share a start,
// as each takes four registers.
LOWBIT_HOST_DEVICE constexpr int subnormal_start(int start, int field) {
  return start << (field | 1);
}

// Quantised activations, the B operand of the int8 products (m16n8k32: a column is a column of B).
//
// The integer value of an activation is that of its one column, or of two: 256 v0 + v1.
//
//              per_token   column(s) of token m                         scales of a token
//   fast       1           m: int8                                      one per 128 inputs
//   high       2           2 m: v0, 2 m + 1: v1, of |v| <= 32639        one
//   A = 1..7   1           m: odd, |v| <= 2^A - 1                       one
//   A = 8      2           2 m: v0, 2 m + 1: v1, of odd |v| <= 255      one
//
// Inputs beyond in_features have code 0. A token with a non-finite activation has codes 0 and NaN in all its
// scales and sums.
//
// Products whose sums leave the integers inside a row (is_grouped() in cuda/bits/bits.h) read `scales` by 128
// inputs, for every kind of activations, and `sums`; the others read one scale per token and `totals`. The
// prologue writes what the product reads, and nothing else.
//
// CODES lie in the order in which the lanes of a warp load them, tile by tile of eight columns:
//
//   [ceil(columns / 8)][Kp / 128 groups][2 halves h][8 columns][4 t][2 i][8 inputs j]
//
// has input 128 group + 32 (2 h + i) + 8 t + j. Lane 4 (column % 8) + t finds its registers of two steps of a
// group in 16 bytes, those of the whole warp are 512 bytes in a row:
//
//   half 0:  x = b0, y = b1 of step 0    z = b0, w = b1 of step 1
//   half 1:  x = b0, y = b1 of step 2    z = b0, w = b1 of step 3
//
// SCALES AND SUMS, where there are several of a token, lie four in a row, those of eight tokens side by side:
//
//   [ceil(tokens / 8)][values / 4][8 tokens][4]
//
// Columns and tokens that fill up a tile are neither written nor read.
//
// SUMS THAT ARE READ AS SUBNORMAL NUMBERS (cuda/bits/scales.h) want instead, group by group,
//
//   [ceil(tokens / 16)][Kp / 128 groups][16 tokens][2]
//
//   scale / range * 2^(126 - f)                                f: the group's field, group % 8
//   (factor * sum of the codes - P) * scale / range * 2^-23    P: what the sum starts from, in its own units
//
// where `range` of a token is a power of two near its largest magnitude, so that nothing leaves the range of
// a float, and where it has one scale that scale, so that both are exact. A group of fewer than 128 inputs
// has the second without the sum of its codes, and exact: they may be small beside P, and the rounding large
// beside them. That part stays in `sums`.
struct Columns {
  int64_t tokens;
  int64_t padded_inputs;  // Kp
  int32_t sets;           // 1, or one per segment
  int32_t per_token;      // 1 or 2 columns
  int32_t scale_groups;   // scales of a token: Kp / 128 where sums are grouped, else 1
  int32_t units;          // sums of a token: 1, Kp / 128 or Kp / 32, one per unit of the weight's scales
  int32_t experts;        // gates of a token: the most experts of any segment, the others use the first ones
  int32_t start;          // a power of two above sums of 128 codes that are read as subnormal numbers, or 0

  int8_t* codes;    // [sets] tiles
  float* scales;    // [sets] tiles of scale_groups a token
  float* sums;      // [sets] tiles of units a token: a factor times the sum of scale * code; only grouped
  float2* groups;   // [sets] tiles of 16 tokens; like ranges, only where start is not 0
  float* ranges;    // [sets][tokens]
  int32_t* totals;  // [sets][tokens * per_token]  sum of all codes of a column; only where not grouped
  float* gates;     // [sets][tokens][experts]

  // Room for the product, where blocks share rows.
  int64_t arrival_count;
  uint32_t* arrivals;  // [arrival_count]  set to 0 by the prologue
  void* partial_sums;

  LOWBIT_HOST_DEVICE bool grouped() const { return scale_groups > 1; }
  LOWBIT_HOST_DEVICE int64_t count() const { return tokens * per_token; }
  LOWBIT_HOST_DEVICE int64_t column_tiles() const { return (count() + kTileColumns - 1) / kTileColumns; }
  LOWBIT_HOST_DEVICE int64_t token_tiles() const { return (tokens + kTileTokens - 1) / kTileTokens; }
  // Sets are numbered like segments; where all segments share one, it is set 0.
  LOWBIT_HOST_DEVICE int32_t set_of(int32_t segment) const { return sets == 1 ? 0 : segment; }
  // Its first byte; a group is kGroupBytes further, the other half kHalfGroupBytes.
  LOWBIT_HOST_DEVICE int8_t* codes_of(int32_t set, int64_t column) const {
    return codes + (set * column_tiles() + (column >> 3)) * kTileColumns * padded_inputs +
           (column & 7) * kColumnBytes;
  }
  // A token's first value; value i is place_of(i) further.
  LOWBIT_HOST_DEVICE float* scales_of(int32_t set, int64_t token) const {
    return first_of(scales, scale_groups, set, token);
  }
  LOWBIT_HOST_DEVICE float* sums_of(int32_t set, int64_t token) const {
    return first_of(sums, units, set, token);
  }
  LOWBIT_HOST_DEVICE int64_t group_values() const {  // of a set
    return (tokens + kGroupTokens - 1) / kGroupTokens * kGroupTokens * scale_groups;
  }
  // A token's first group; the next one is kGroupTokens further.
  LOWBIT_HOST_DEVICE float2* groups_of(int32_t set, int64_t token) const {
    const int64_t tile = token / kGroupTokens * kGroupTokens;
    return groups + set * group_values() + tile * scale_groups + (token - tile);
  }
  LOWBIT_HOST_DEVICE float* range_of(int32_t set, int64_t token) const {
    return ranges + set * tokens + token;
  }
  LOWBIT_HOST_DEVICE static int place_of(int value) { return (value >> 2) * (4 * kTileTokens) + (value & 3); }
  LOWBIT_HOST_DEVICE int32_t* totals_of(int32_t set, int64_t column) const {
    return totals + set * count() + column;
  }
  LOWBIT_HOST_DEVICE float* gates_of(int32_t set, int64_t token) const {
    return gates + (set * tokens + token) * experts;
  }

 private:
  LOWBIT_HOST_DEVICE float* first_of(float* values, int32_t each, int32_t set, int64_t token) const {
    if (each == 1) return values + set * tokens + token;
    return values + (set * token_tiles() + (token >> 3)) * kTileTokens * each + (token & 7) * 4;
  }
};

// The same tokens in fp32, for `exact`: [sets][tokens][Kp] in the order of the inputs, zeros beyond
// in_features. A token with a non-finite activation is NaN throughout, zeros included. Sums and gates as in
// Columns.
struct FloatColumns {
  int64_t tokens;
  int64_t padded_inputs;
  int32_t sets;
  int32_t units;
  int32_t experts;

  float* values;  // [sets][tokens][Kp]
  float* sums;    // [sets][tokens][units]
  float* gates;   // [sets][tokens][experts]

  LOWBIT_HOST_DEVICE int32_t set_of(int32_t segment) const { return sets == 1 ? 0 : segment; }
  LOWBIT_HOST_DEVICE float* values_of(int32_t set, int64_t token) const {
    return values + (set * tokens + token) * padded_inputs;
  }
  LOWBIT_HOST_DEVICE float* gates_of(int32_t set, int64_t token) const {
    return gates + (set * tokens + token) * experts;
  }
};

// The same tokens in fp16, for the caller's matrix product, in the order of the inputs: z = scale * value,
// and the scale is the power of two that brings a token's largest magnitude to 2^14 and more. Zeros beyond
// in_features. A token with a non-finite activation has values 0 and scale NaN.
struct HalfColumns {
  int64_t tokens;
  int64_t padded_inputs;  // what the prologue walks over
  int64_t row_inputs;     // of a row of values: in_features rounded up to kHalfAlign
  int32_t sets;
  int32_t experts;

  __half* values;  // [sets][tokens][row_inputs]
  float* scales;   // [sets][tokens]
  float* gates;    // [sets][tokens][experts]

  // Room for the product: a tile of the weight's rows, in the same form, and what it is multiplied to.
  int64_t tile_rows;
  __half* tile;        // [tile_rows][row_inputs]
  float* tile_scales;  // [tile_rows]
  float* sums;         // [tokens][tile_rows]

  LOWBIT_HOST_DEVICE __half* values_of(int32_t set, int64_t token) const {
    return values + (set * tokens + token) * row_inputs;
  }
  LOWBIT_HOST_DEVICE float* scales_of(int32_t set, int64_t token) const {
    return scales + set * tokens + token;
  }
  LOWBIT_HOST_DEVICE float* gates_of(int32_t set, int64_t token) const {
    return gates + (set * tokens + token) * experts;
  }
};

// Quantised activations with one scale per token, cut into bit planes: the B operand of the b1 product
// (m16n8k256: a column is one plane of one token, column m * per_token + p).
//
//   value of an activation = sum_p plane_factor(p) * bit_p
//
//              per_token   planes
//   high       16          two's complement of the 16-bit code: 1, 2, 4, ..., 2^14, -2^15
//   A = 1..8   A + 1       the unsigned code u, code = 2 u - (2^A - 1): 2, 4, ..., 2^A, and a plane with a 1
//                          for every input, which counts -(2^A - 1)
//
// All bits of inputs beyond in_features are 0, so they contribute nothing. A token with a non-finite
// activation has no bit set and scale NaN.
//
// Words of a column, [Kp / 1024][4 q][4 t][2 h]: bit 8 i + f is input 1024 s + 128 f + 32 q + 8 t + 4 h + i,
// the order in which a tile of one-bit digits holds its inputs. For step q lane (column = lane >> 2, t = lane
// & 3) takes the pair (h = 0, 1) as b0 and b1: one 8-byte load.
struct Planes {
  int64_t tokens;
  int64_t padded_inputs;
  int32_t sets;
  int32_t per_token;  // planes of a token
  int32_t bits;       // A, or 0: high
  int32_t experts;

  uint32_t* words;  // [sets][tokens * per_token][Kp / 32]
  float* scales;    // [sets][tokens]
  int64_t* totals;  // [sets][tokens]  sum of all values
  float* gates;     // [sets][tokens][experts]

  LOWBIT_HOST_DEVICE int64_t count() const { return tokens * per_token; }
  LOWBIT_HOST_DEVICE int32_t set_of(int32_t segment) const { return sets == 1 ? 0 : segment; }
  LOWBIT_HOST_DEVICE int32_t plane_factor(int32_t p) const {
    if (bits == 0) return p < 15 ? 1 << p : -(1 << 15);
    return p < bits ? 2 << p : -((1 << bits) - 1);
  }
  LOWBIT_HOST_DEVICE uint32_t* words_of(int32_t set, int64_t column) const {
    return words + (set * count() + column) * (padded_inputs / 32);
  }
  LOWBIT_HOST_DEVICE float* gates_of(int32_t set, int64_t token) const {
    return gates + (set * tokens + token) * experts;
  }
};

}  // namespace lowbit::cuda
