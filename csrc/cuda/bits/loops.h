// The hot loops of the GEMV: one warp, one or two row tiles by kColumnTiles tiles of eight columns, over the
// warp's spans.
//
// Weights stream through registers, the next superblock loaded while this one is multiplied. Columns of
// one-bit digits over whole rows, the fewest bytes of weights to a column, come from shared memory
// (cuda/bits/chunks.h), and two row tiles share what it costs to load them; others come from L1.
#pragma once

#include "cuda/bits/chunks.h"
#include "cuda/bits/epilogue.h"
#include "cuda/bits/scales.h"

namespace lowbit::cuda {

// One superblock of each of a warp's row tiles.
template <int kRowTiles>
struct TileWords {
  Words tile[kRowTiles];

  LOWBIT_DEVICE void load(const uint4* const (&superblocks)[kRowTiles], int words_further) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) tile[r].load(superblocks[r] + words_further);
  }
  LOWBIT_DEVICE void load_if(bool wanted, const uint4* const (&superblocks)[kRowTiles]) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) tile[r].load_if(wanted, superblocks[r]);
  }
};

// Where superblocks of a warp's row tiles lie. Tiles behind the last one are the last one again.
template <int kRowTiles>
struct TilePointers {
  const uint4* first[kRowTiles];  // of the row

  LOWBIT_DEVICE TilePointers(const WarpTask& task, const Pass& pass) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const int tile = min(task.tile + r, tiles_of(task.segment) - 1);
      first[r] = in_register(tile_words(task.segment, pass, tile, 0, task.lane));
    }
  }

  LOWBIT_DEVICE void at_span(int span, int span_words, const uint4* (&pointers)[kRowTiles]) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) pointers[r] = advance(first[r], span, span_words);
  }
};

// multiply(superblock of the span, its words) for all superblocks of the warp's spans in order; `source`,
// what is read beside the weights, is told of every span before. Two sets of registers take turns, so that
// none is copied; where a span is one superblock that takes the loop twice, which a kShort loop does without.
// Where it is several, kAhead lets the loads of the next span go as far ahead as there are registers.
template <int kWidth, bool kShort, bool kAhead, int kRowTiles, class Source, class Multiply>
LOWBIT_DEVICE void walk_spans(const WarpTask& task, const Pass& pass, Source& source,
                              const Multiply& multiply) {
  constexpr int kSpanWords = kWidth * kSuperblockWords;  // 8 fields, 8 / kWidth to a superblock
  const TilePointers<kRowTiles> tiles(task, pass);
  const Spans& spans = task.spans;
  int span = spans.first;
  if (span >= spans.end) {
    source.begin_pass();
    source.end_pass();
    return;
  }
  const uint4* words[kRowTiles];
  TileWords<kRowTiles> even, odd;
  const auto load_span = [&](TileWords<kRowTiles>& target, int index) {
    tiles.at_span(index, kSpanWords, words);
    target.load(words, 0);
  };
  load_span(even, span);
  source.begin_pass();
  if constexpr (kWidth == 1 && kShort) {
#pragma unroll 1
    while (span < spans.end) {
      const int following = Spans::after(span);
      if (following < spans.end) load_span(odd, following);
      source.next_span(span);
      multiply(0, even);
      even = odd;
      span = following;
    }
  } else if constexpr (kWidth == 1) {
#pragma unroll 1
    while (true) {
      int following = Spans::after(span);
      if (following < spans.end) load_span(odd, following);
      source.next_span(span);
      multiply(0, even);
      if (following >= spans.end) break;
      span = following;
      following = Spans::after(span);
      if (following < spans.end) load_span(even, following);
      source.next_span(span);
      multiply(0, odd);
      if (following >= spans.end) break;
      span = following;
    }
  } else {
#pragma unroll 1
    while (span < spans.end) {
      const int following = Spans::after(span);
      source.next_span(span);
#pragma unroll
      for (int j = 0; j < kWidth; j += 2) {
        odd.load(words, (j + 1) * kSuperblockWords);
        multiply(j, even);
        if (j + 2 < kWidth) {
          even.load(words, (j + 2) * kSuperblockWords);
        } else if constexpr (kAhead) {
          // With an address of its own, as sm_120 puts the loads behind the products otherwise.
          tiles.at_span(in_register(following), kSpanWords, words);
          even.load_if(following < spans.end, words);
        } else if (following < spans.end) {
          load_span(even, following);
        }
        multiply(j + 1, odd);
      }
      span = following;
    }
  }
  source.end_pass();
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
// Not where kRest is false: `rest` of two tiles of columns takes eight registers.
template <int kWidth, bool kRest = true>
struct Fields {
  static constexpr int kCount = 8 / kWidth;

  uint32_t lower[kSteps][4];  // d0, where digits have four bits

  LOWBIT_HOST_DEVICE static constexpr bool has_rest(int field) { return kRest && kWidth == 4 && field == 1; }

  template <int kColumnTiles>
  LOWBIT_DEVICE void multiply(const Words& words, int field, int q,
                              const FieldColumns (&columns)[kColumnTiles], bool first, const Magic& start,
                              int (&sums)[kColumnTiles][4], int (&rest)[kColumnTiles][4]) {
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
template <int kWidth, int kRowTiles, int kColumnTiles, class Source>
LOWBIT_DEVICE void whole_pass(const WarpTask& task, Source& codes, const Pass& pass,
                              int (&sums)[kRowTiles][kColumnTiles][4]) {
  constexpr int kFields = 8 / kWidth;
  int fields[kFields][kRowTiles][kColumnTiles][4] = {};
  int rest[kRowTiles][kColumnTiles][4] = {};
  walk_spans<kWidth, false, kColumnTiles == 2, kRowTiles>(
      task, pass, codes, [&](int superblock, const TileWords<kRowTiles>& words) {
        Fields<kWidth> digits[kRowTiles];
#pragma unroll
        for (int f = 0; f < kFields; ++f) {
          FieldColumns columns[kColumnTiles];
          codes.load(superblock * kFields + f, columns);
#pragma unroll
          for (int q = 0; q < kSteps; ++q) {
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r)
              digits[r].multiply(words.tile[r], f, q, columns, false, Magic(0), fields[f][r], rest[r]);
          }
        }
      });
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int sum = sums[r][c][i] << kWidth;
#pragma unroll
        for (int f = 0; f < kFields; ++f) {
          const int field = fields[f][r][c][i];
          sum += (Fields<kWidth>::has_rest(f) ? field - rest[r][c][i] : field) >> (kWidth * f);
        }
        sums[r][c][i] = sum;
      }
    }
  }
}

// The same with columns from L1.
template <int kWidth, int kRowTiles, int kColumnTiles>
LOWBIT_DEVICE void cached_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                               int (&sums)[kRowTiles][kColumnTiles][4]) {
  CodePointers<kColumnTiles> codes(task, x);
  whole_pass<kWidth>(task, codes, pass, sums);
}

// What a walk with sums that leave the integers reads beside the weights: columns, scales of the rows and of
// the columns.
template <int kColumnTiles, Flush kFlush, class T, bool kShare, bool kPairs, bool kSubnormal>
struct GroupedSource {
  static constexpr bool kStepping = kPairs || (kSubnormal && kColumnTiles == 2);

  CodePointers<kColumnTiles, kStepping> codes;
  Flusher<kFlush, T, kShare, kStepping> flusher;
  // With all of the bits in one pass, and scales by 128, tokens of two columns are pairs.
  std::conditional_t<kSubnormal, GroupScales<kColumnTiles>,
                     ScalesOf<kColumnTiles, kFlush, kPairs, !kShare && kFlush != Flush::by_32>>
      scales;

  LOWBIT_DEVICE GroupedSource(const WarpTask& task, const Columns& x, const Pass& pass)
      : codes(task, x), flusher{RowScales<kFlush, T, kStepping>(task), pass.sums_share}, scales(task, x) {}

  LOWBIT_DEVICE void begin_pass() {
    codes.begin_pass();
    scales.begin_pass();
  }
  LOWBIT_DEVICE void next_span(int span) {
    codes.next_span(span);
    flusher.rows.next_span(span);
    scales.next_span(span);
  }
  LOWBIT_DEVICE void end_pass() const {}

  LOWBIT_DEVICE void visit(int field) {
    flusher.rows.visit(field);
    scales.visit(field);
  }
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&start)[4], int shift, int field, int unit,
                           int tile, float (&y)[4]) const {
    flusher.flush(sums, start, shift, field, unit, scales, tile, y);
  }
};

// What products of sums that are read as subnormal numbers lack (cuda/activations/columns.h): the range of
// the token, and the share of its sums in a last group of fewer than 128 inputs.
template <int kColumnTiles>
LOWBIT_DEVICE void finish_subnormal(const WarpTask& task, const Columns& x, float (&y)[kColumnTiles][4]) {
  const int inputs = static_cast<int>(task.layer.in_features), set = task.segment.set;
  const bool rest = inputs % kScaleInputs != 0 && task.spans.end == task.layer.spans;
  const int group = inputs / kScaleInputs;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = kRowTile * task.tile + (task.lane >> 2) + 8 * (i >> 1);
    const float scale = rest ? load_value(task.segment.scales, task.layer.scales_dtype,
                                          int64_t{row} * task.layer.units + group)
                             : 0.0f;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int column = task.first_column + kTileColumns * c + 2 * (task.lane & 3) + (i & 1);
      const int token = min(column, static_cast<int>(x.tokens) - 1);
      y[c][i] *= 1.0f / kSubnormalUnit;
      y[c][i] *= *x.range_of(set, token);
      if (rest) y[c][i] = fmaf(scale, x.sums_of(set, token)[Columns::place_of(group)], y[c][i]);
    }
  }
}

// Sums that are scaled after every field (or step, by 32 inputs), in ascending order of the inputs. Where
// kShare, the pass is one of several and takes its share of the sums of the activations. Where kPairs, tokens
// have two columns, which are put together before they are scaled.
template <int kWidth, int kColumnTiles, Flush kFlush, class T, bool kShare, bool kPairs = false>
LOWBIT_DEVICE void grouped_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                                float (&y)[kColumnTiles][4]) {
  constexpr int kFields = 8 / kWidth;
  constexpr bool kBySteps = kFlush == Flush::by_32;
  constexpr bool kSubnormal = reads_subnormal<T>(kWidth, kFlush, kShare, kPairs);
  constexpr bool kShort =
      kBySteps || (kColumnTiles == 2 && !kPairs && !kSubnormal) || (kWidth == 2 && !kShare);
  constexpr bool kHeavy = kShort || kColumnTiles == 2;
  constexpr bool kAhead = !(kBySteps && kShare);  // there it would take more registers than there are
  using Digits = Fields<kWidth, kFlush != Flush::row || kColumnTiles == 1>;  // or registers would run out
  GroupedSource<kColumnTiles, kFlush, T, kShare, kPairs, kSubnormal> source(task, x, pass);
  const Starts<kSubnormal> starts(x.start);
  walk_spans<kWidth, kShort, kAhead, 1>(task, pass, source, [&](int superblock, const TileWords<1>& words) {
    Digits digits;
#pragma unroll
    for (int f = 0; f < kFields; ++f) {
      const int field = superblock * kFields + f;
      const auto start = starts.of(kPairs ? kNoMagic : kWidth * f);
      // Loads of later fields stay behind it, or registers would run out.
      if (kHeavy && (f == 0 || !kSubnormal)) __syncwarp();
      FieldColumns columns[kColumnTiles];
      source.codes.load(field, columns);
      source.visit(field);
      int sums[kColumnTiles][4], rest[kColumnTiles][4];
#pragma unroll
      for (int q = 0; q < kSteps; ++q) {
        digits.multiply(words.tile[0], f, q, columns, kBySteps || q == 0, start, sums, rest);
        if (kBySteps || q + 1 == kSteps) {
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
            source.flush(sums[c], Digits::has_rest(f) ? static_cast<const int (&)[4]>(rest[c]) : start.c,
                         kWidth * f, field, kBySteps ? q : 0, c, y[c]);
          }
        }
      }
    }
  });
  if constexpr (kPairs) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) y[c][1] *= kSecondSums, y[c][3] *= kSecondSums;
  }
  if constexpr (kSubnormal) finish_subnormal(task, x, y);
}

}  // namespace lowbit::cuda
