// The hot loops of the GEMV: one warp, one row tile by kColumnTiles tiles of eight columns, over the warp's
// spans.
//
// No shared memory: weights stream through registers, the next superblock loaded while this one is
// multiplied, and columns come from L1, where the block's other row warps find them as well.
#pragma once

#include "cuda/bits/scales.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda {

// The spans of one warp: first, first + step, ... below end.
struct Spans {
  int first, step, end;
};

struct WarpTask {
  const LayerParams& layer;
  const SegmentParams& segment;
  int tile;
  int first_column;
  int lane;
  Spans spans;
};

// multiply(span, superblock of the span, its words) for all superblocks of the warp's spans in order. Two
// sets of registers take turns, so that none is copied; where a span is one superblock that takes the loop
// twice, which a kShort loop does without.
template <int kWidth, bool kShort, class Multiply>
LOWBIT_DEVICE void walk_spans(const WarpTask& task, const Pass& pass, const Multiply& multiply) {
  constexpr int kSpanWords = kWidth * kSuperblockWords;  // 8 fields, 8 / kWidth to a superblock
  const uint4* const tile = in_register(tile_words(task.segment, pass, task.tile, 0, task.lane));
  const Spans& spans = task.spans;
  int span = spans.first;
  if (span >= spans.end) return;
  const uint4* words = advance(tile, span, kSpanWords);
  Words even, odd;
  even.load(words);
  wait_for_previous_kernel();
  if constexpr (kWidth == 1 && kShort) {
#pragma unroll 1
    while (span < spans.end) {
      const int following = span + spans.step;
      if (following < spans.end) odd.load(advance(tile, following, kSpanWords));
      multiply(span, 0, even);
      even = odd;
      span = following;
    }
  } else if constexpr (kWidth == 1) {
#pragma unroll 1
    while (true) {
      int following = span + spans.step;
      if (following < spans.end) odd.load(advance(tile, following, kSpanWords));
      multiply(span, 0, even);
      if (following >= spans.end) return;
      span = following;
      following += spans.step;
      if (following < spans.end) even.load(advance(tile, following, kSpanWords));
      multiply(span, 0, odd);
      if (following >= spans.end) return;
      span = following;
    }
  } else {
#pragma unroll 1
    while (span < spans.end) {
      const int following = span + spans.step;
#pragma unroll
      for (int j = 0; j < kWidth; j += 2) {
        odd.load(words + (j + 1) * kSuperblockWords);
        multiply(span, j, even);
        if (j + 2 < kWidth) {
          even.load(words + (j + 2) * kSuperblockWords);
        } else if (following < spans.end) {
          words = advance(tile, following, kSpanWords);
          even.load(words);
        }
        multiply(span, j + 1, odd);
      }
      span = following;
    }
  }
}

// sums = start + a b for the first step of a sum, sums += a b for the others.
LOWBIT_DEVICE void multiply_step(int (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool first,
                                 const int (&start)[4]) {
  if (first) {
    mma_u8s8(sums, a, b, start);
  } else {
    mma_u8s8(sums, a, b);
  }
}

// The fields of a superblock, in order. Each is masked where it is, so its sums count 2^(w f) times.
//
// FOUR-BIT DIGITS need no mask for the upper field. A byte is 16 d1 + d0, and
//   sum (16 d1 + d0) x - sum d0 x = 16 sum d1 x
// is one more product for four masks less: `rest` are the sums of d0 x, and a field stands for sums - rest.
template <int kWidth>
struct Fields {
  static constexpr int kCount = 8 / kWidth;

  const Words& words;
  uint32_t lower[kSteps][4];  // d0, where digits have four bits

  LOWBIT_DEVICE explicit Fields(const Words& all) : words(all) {}

  LOWBIT_HOST_DEVICE static constexpr bool has_rest(int field) { return kWidth == 4 && field == 1; }

  template <int kColumnTiles>
  LOWBIT_DEVICE void multiply(int field, int q, const FieldColumns (&columns)[kColumnTiles], bool first,
                              const Magic& start, int (&sums)[kColumnTiles][4],
                              int (&rest)[kColumnTiles][4]) {
    if (has_rest(field)) {
      const uint32_t a[4] = {words.step[q].x, words.step[q].y, words.step[q].z, words.step[q].w};
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        multiply_step(sums[c], a, columns[c].b[q], first, start.c);
        multiply_step(rest[c], lower[q], columns[c].b[q], first, start.c);
      }
    } else {
      mask_words(lower[q], words.step[q], field_mask(kWidth, field));
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c)
        multiply_step(sums[c], lower[q], columns[c].b[q], first, start.c);
    }
  }
};

// Sums over the whole row, in integers: sums = sums * 2^width + those of this digit. Every field has an
// accumulator of its own, which is shifted once, at the end.
template <int kWidth, int kColumnTiles>
LOWBIT_DEVICE void whole_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                              int (&sums)[kColumnTiles][4]) {
  constexpr int kFields = 8 / kWidth;
  CodePointers<kColumnTiles> codes(x, task.segment.set, task.first_column, task.lane);
  int fields[kFields][kColumnTiles][4] = {};
  int rest[kColumnTiles][4] = {};
  walk_spans<kWidth, false>(task, pass, [&](int span, int superblock, const Words& words) {
    Fields<kWidth> digits(words);
#pragma unroll
    for (int f = 0; f < kFields; ++f) {
      FieldColumns columns[kColumnTiles];
      codes.load(span, superblock * kFields + f, columns);
#pragma unroll
      for (int q = 0; q < kSteps; ++q) digits.multiply(f, q, columns, false, Magic(0), fields[f], rest);
    }
  });
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int sum = sums[c][i] << kWidth;
#pragma unroll
      for (int f = 0; f < kFields; ++f) {
        sum += (Fields<kWidth>::has_rest(f) ? fields[f][c][i] - rest[c][i] : fields[f][c][i]) >> (kWidth * f);
      }
      sums[c][i] = sum;
    }
  }
}

// Sums that are scaled after every field (or step, by 32 inputs), in ascending order of the inputs. Where
// kShare, the pass is one of several and takes its share of the sums of the activations.
template <int kWidth, int kColumnTiles, Flush kFlush, class T, bool kShare>
LOWBIT_DEVICE void grouped_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                                float (&y)[kColumnTiles][4]) {
  constexpr int kFields = 8 / kWidth;
  constexpr bool kBySteps = kFlush == Flush::by_32;
  constexpr bool kHeavy = kBySteps || kColumnTiles == 2 || (kWidth == 2 && !kShare);
  CodePointers<kColumnTiles> codes(x, task.segment.set, task.first_column, task.lane);
  Flusher<kFlush, T, kShare> flusher{{task.layer, task.segment, task.tile, task.lane}, pass.sums_share};
  ColumnScales<kColumnTiles, kFlush> scales(x, task.segment.set, task.first_column, task.lane);
  walk_spans<kWidth, kHeavy>(task, pass, [&](int span, int superblock, const Words& words) {
    Fields<kWidth> digits(words);
#pragma unroll
    for (int f = 0; f < kFields; ++f) {
      const int field = superblock * kFields + f;
      const Magic start(kWidth * f);
      if (kHeavy) __syncwarp();  // loads of later fields stay behind it, or registers would run out
      FieldColumns columns[kColumnTiles];
      codes.load(span, field, columns);
      flusher.rows.visit(span, field);
      scales.visit(span, field);
      int sums[kColumnTiles][4], rest[kColumnTiles][4];
#pragma unroll
      for (int q = 0; q < kSteps; ++q) {
        digits.multiply(f, q, columns, kBySteps || q == 0, start, sums, rest);
        if (kBySteps || q + 1 == kSteps) {
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
            flusher.flush(sums[c],
                          Fields<kWidth>::has_rest(f) ? static_cast<const int (&)[4]>(rest[c]) : start.c,
                          field, kBySteps ? q : 0, scales, c, y[c]);
          }
        }
      }
    }
  });
}

}  // namespace lowbit::cuda
