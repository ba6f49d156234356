// What the kernels of this folder take: a Layer, its staged activations and its result, ready for the device.
#pragma once

#include "cuda/bits/bits.h"
#include "cuda/ptx/integer.h"

namespace lowbit::cuda {

inline constexpr int kMaxWarps = 8;    // of a block
inline constexpr int kTileSums = 128;  // of a row tile and a tile of eight columns

// One walk over all inputs: a digit, or up to four one-bit digits that are put together in registers.
struct Pass {
  int32_t bits;         // of the code that is multiplied
  int32_t width;        // of its digits
  int32_t superblocks;  // S
  int32_t before;       // superblocks of a tile in the digits before
  // The pass alone is the bipolar number 2 u - (2^bits - 1); its share of `sums`, which count for all active
  // bits.
  float sums_share;
};

struct SegmentParams {
  const uint4* tiles;
  const void* scales;
  const int16_t* offsets;
  const void* out_scales;
  int64_t out_scales_stride;
  int64_t first_column;  // of y
  int32_t rows;
  int32_t first_block;  // blocks of the segments before
  int32_t experts;
  int32_t set;
};

struct LayerParams {
  int64_t in_features;
  int32_t units;        // of a row of scales
  int32_t unit_inputs;  // 128, 32 or, for a whole row, 0
  int32_t code_factor;  // A
  int32_t code_offset;  // A k
  lowbit_dtype scales_dtype;
  lowbit_dtype out_scales_dtype;
  int32_t spans;  // of 1024 inputs
  int32_t num_passes;
  Pass passes[kMaxDigits];
  int32_t num_segments;
  SegmentParams segments[kMaxSegments];
  Result result;
};

// `planes_per_pass`: one-bit digits that a pass takes at most, where there are no others. `rows_per_block`
// decides first_block; *blocks is the sum over the segments. Checks what all kernels need.
LayerParams layer_params(const Layer& layer, const Result& result, int32_t planes_per_pass,
                         int64_t rows_per_block, int64_t* blocks);

// What turns an offset times a sum of the activations (as Columns has it) into a share of a product divided
// by A.
float offset_factor(const LayerParams& layer, int32_t active_bits, int32_t per_token);

// Throw where int32 sums over a whole row could overflow, or a grid.
void check_whole(const Layer& layer);
void check_blocks(int64_t blocks, int64_t tokens);

// The spans of one warp: its part of a row's.
struct Spans {
  int first, end;

  LOWBIT_DEVICE static Spans of_part(int spans, int part, int parts) {
    return {spans * part / parts, spans * (part + 1) / parts};
  }
  // In a register: who knows that spans follow each other keeps an address for every array that they index.
  LOWBIT_DEVICE static int after(int span) { return in_register(span + 1); }
};

// A warp's place in its block.
struct WarpPlace {
  int row_warp, row_warps;
  int input_warp, input_warps;
  int lane;
};

// What a warp sums up.
struct WarpTask {
  const LayerParams& layer;
  const SegmentParams& segment;
  int tile;  // the first
  int first_column;
  int lane;
  Spans spans;
};

LOWBIT_DEVICE int tiles_of(const SegmentParams& segment) {
  return (segment.rows + kRowTile - 1) / kRowTile;
}

// The segment that block `block` works for.
LOWBIT_DEVICE int segment_of(const LayerParams& layer, int block) {
  int segment = 0;
  while (segment + 1 < layer.num_segments && block >= layer.segments[segment + 1].first_block) ++segment;
  return segment;
}

// First word of `tile`, superblock `superblock` of a pass, of lane `lane`; four words in a row are 32 x 16
// bytes apart. Digits of the pass beyond the first are tiles_of(segment) * pass.superblocks superblocks
// further.
LOWBIT_DEVICE const uint4* tile_words(const SegmentParams& segment, const Pass& pass, int tile,
                                      int superblock, int lane) {
  constexpr int64_t kWords = kSuperblockBytes / sizeof(uint4);
  const int64_t before = static_cast<int64_t>(tiles_of(segment)) * pass.before;
  return segment.tiles + (before + static_cast<int64_t>(tile) * pass.superblocks + superblock) * kWords +
         lane;
}

}  // namespace lowbit::cuda
