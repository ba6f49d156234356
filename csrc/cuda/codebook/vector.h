// Additive codebooks of vectors: repacking at load, and the products in their two forms.
//
//   tensor   v = 4 or 8, `fast` and `high`: entries looked up in shared memory are fp16 tensor-core operands
//            (vector_tensor.cu)
//   floats   everything else: products of all entries with the inputs once, then sums by code
//   (vector_floats.cu)
//
// CODES  uint4 [ceil(N / 16)][chunks][32 lanes], chunks = ceil(steps codebooks / 8), steps = ceil(positions /
// 4), positions = ceil(K / v). A step is 4 positions, one for each t. Lane l, with g = l >> 2 and t = l & 3,
// has in byte 2 i + h, i in 0..7, h in 0..1, of a chunk the code of pair p = 8 chunk + i:
//
//     row       16 tile + g + 8 h
//     codebook  p % codebooks
//     position  4 (p / codebooks) + t
//
//     one lane's chunk, 2 codebooks     | row g  row g+8 | row g  row g+8 | row g  row g+8 | ...
//                                       |  step 0, book 0 | step 0, book 1 | step 1, book 0 | ...
//
// so that a lane's entries are the registers of B that it needs (m16n8k16, the inputs of a step taken in the
// order in which lanes hold them). Codes beyond rows, positions and pairs are 0.
#pragma once

#include "cuda/bits/bits.h"
#include "cuda/launch.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda::codebook {

struct Plan;  // cuda/plan/codebook.h

inline constexpr int kEntries = 256;   // of a codebook
inline constexpr int kChunkPairs = 8;  // of a step and a codebook, that one 16-byte load of a lane holds
inline constexpr int kStepPositions = 4;

struct VectorWeight {
  int64_t out_features, in_features;
  int32_t num_codebooks, vector_size;
  const uint4* codes;
  const uint4* halves;        // tensor form: fp16 [codebooks][256][v], to be multiplied ...
  const float* halves_scale;  // ... by this power of two
  const void* codebooks;
  const void* out_scales;
  lowbit_dtype dtype;

  LOWBIT_HOST_DEVICE int64_t positions() const { return (in_features + vector_size - 1) / vector_size; }
  LOWBIT_HOST_DEVICE int64_t steps() const { return (positions() + kStepPositions - 1) / kStepPositions; }
  LOWBIT_HOST_DEVICE int64_t chunks() const {
    return (steps() * num_codebooks + kChunkPairs - 1) / kChunkPairs;
  }
  LOWBIT_HOST_DEVICE int64_t tiles() const { return (out_features + kRowTile - 1) / kRowTile; }
  // Inputs that the chunks reach, padding included.
  LOWBIT_HOST_DEVICE int64_t padded_inputs() const {
    return (chunks() * kChunkPairs + num_codebooks - 1) / num_codebooks * kStepPositions * vector_size;
  }
};

inline bool has_halves(int32_t vector_size) {
  return vector_size == 4 || vector_size == 8;
}

struct VectorRepack {
  VectorWeight weight;  // its codes, halves and halves_scale are not looked at
  const uint8_t* canonical;
  uint4* codes;
  uint16_t* halves;
  float* halves_scale;
};
void repack_vector(const VectorRepack& repack, Stream stream);
void restore_vector(const VectorWeight& weight, uint8_t* canonical, Stream stream);

// Activations for the tensor form as registers of A, uint4 [blocks][steps][v / 4][32 lanes]: of 16 columns,
// inputs 4 k .. 4 k + 3 of the lane's position of a step for product k,
//
//   register r, half i:  column g + 8 (r & 1), input 4 k + 2 (r >> 1) + i of position 4 step + t
//
// A block is 16 tokens of a column each, or 8 tokens of two: x = scale (column m + column m + 8). Columns
// that no token has are left as they are: their results are dropped. Inputs beyond in_features are 0.
struct HalfColumns {
  int64_t tokens, padded_inputs;
  int32_t per_token;
  int32_t vector_size;
  uint32_t* values;
  float* scales;  // [tokens]; NaN for a token with a non-finite input

  LOWBIT_HOST_DEVICE int32_t block_tokens() const { return 16 / per_token; }
  LOWBIT_HOST_DEVICE int64_t blocks() const { return (tokens + block_tokens() - 1) / block_tokens(); }
  LOWBIT_HOST_DEVICE int64_t words() const { return blocks() * 8 * padded_inputs; }
  // Where the inputs `input` (even) and `input` + 1 of a column of a block lie.
  LOWBIT_HOST_DEVICE int64_t word_of(int64_t block, int column, int64_t input) const {
    const int64_t position = input / vector_size, steps = padded_inputs / (4 * vector_size);
    const int within = static_cast<int>(input % vector_size),
              lane = column % 8 * 4 + static_cast<int>(position % 4);
    const int64_t load = (block * steps + position / 4) * (vector_size / 4) + within / 4;
    return (load * 32 + lane) * 4 + column / 8 + within / 2 % 2 * 2;
  }
};
void stage_halves(const lowbit_input& x, const HalfColumns& out, Stream stream);

// The tensor form.
inline constexpr int kTensorWarps = 16;
inline constexpr int kTensorTiles = 2;     // of a warp
inline constexpr int kTensorColumns = 16;  // of a pass
inline constexpr int kTensorSums =
    kTensorTiles * 2 * 4;  // of a lane: tiles, halves of a tile's rows, elements of D
inline constexpr size_t kTensorPartialBytes =
    sizeof(float) * kTensorWarps * kTensorSums * 32;  // in shared memory
void product_tensor(const VectorWeight& weight, const HalfColumns& x, const Result& result, const Plan& plan,
                    Stream stream);

// The fp32 form. `partial` holds plan.ranges sums for every token and row, rows rounded up to whole tiles.
inline constexpr int kSumsWarps = 8;
inline constexpr int kSumsWarpTiles = 8;
inline constexpr int kSumsBlockTiles = kSumsWarps * kSumsWarpTiles;
void product_floats(const VectorWeight& weight, const FloatColumns& x, const Result& result, float* partial,
                    const Plan& plan, Stream stream);

}  // namespace lowbit::cuda::codebook
