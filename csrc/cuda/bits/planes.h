// The loop for digits of one bit each: up to four planes become four-bit digits in registers, so that the
// cost of masks, products and scales is that of one digit and not of four.
#pragma once

#include "cuda/bits/gemv.h"
#include "cuda/bits/loops.h"

namespace lowbit::cuda {

// Two digit planes become one of twice the width: fields of `high` and `low` at even positions meet in
// `even`, the others in `odd`. kMask has the upper half of every new digit.
//
//   one bit      high  a7 a6 a5 a4 a3 a2 a1 a0       even  a6 b6 a4 b4 a2 b2 a0 b0
//   to two       low   b7 b6 b5 b4 b3 b2 b1 b0       odd   a7 b7 a5 b5 a3 b3 a1 b1
template <int kWidth, uint32_t kMask>
LOWBIT_DEVICE void merge(uint32_t high, uint32_t low, uint32_t& even, uint32_t& odd) {
  even = ((high << kWidth) & kMask) | (low & ~kMask);
  odd = (high & kMask) | ((low >> kWidth) & ~kMask);
}

LOWBIT_DEVICE uint32_t& component(uint4& words, int index) {
  return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

// Two steps of a superblock: what is put together at a time.
struct HalfWords {
  uint4 step[2];

  LOWBIT_DEVICE void load(const uint4* superblock, int half) {
    step[0] = load_stream(superblock + 2 * half * kStepWords);
    step[1] = load_stream(superblock + (2 * half + 1) * kStepWords);
  }
};

// Four-bit digits of two steps: field f of the planes is the lower (f < 4) or upper half of words[f % 4].
struct Nibbles {
  HalfWords words[4];

  // planes[0] is the most significant.
  LOWBIT_DEVICE explicit Nibbles(HalfWords (&planes)[kChunkPlanes]) {
#pragma unroll
    for (int q = 0; q < 2; ++q) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint32_t upper_even, upper_odd, lower_even, lower_odd;
        merge<1, 0xaaaaaaaau>(component(planes[0].step[q], r), component(planes[1].step[q], r), upper_even,
                              upper_odd);
        merge<1, 0xaaaaaaaau>(component(planes[2].step[q], r), component(planes[3].step[q], r), lower_even,
                              lower_odd);
        merge<2, 0xccccccccu>(upper_even, lower_even, component(words[0].step[q], r),
                              component(words[2].step[q], r));
        merge<2, 0xccccccccu>(upper_odd, lower_odd, component(words[1].step[q], r),
                              component(words[3].step[q], r));
#pragma unroll
        for (int n = 0; n < 4; ++n)
          component(words[n].step[q], r) = in_register(component(words[n].step[q], r));
      }
    }
  }

  LOWBIT_HOST_DEVICE static constexpr int shift(int field) { return 4 * (field / 4); }

  LOWBIT_DEVICE void operand(int field, int q, uint32_t (&a)[4]) const {
    mask_words(a, words[field % 4].step[q], field_mask(4, field / 4));
  }
};

// multiply(half, the digits of steps 2 half and 2 half + 1) for all of the warp's spans; the planes that
// follow are loaded meanwhile. `source` as in walk_spans().
template <class Source, class Multiply>
LOWBIT_DEVICE void walk_planes(const WarpTask& task, const Pass& pass, Source& source,
                               const Multiply& multiply) {
  const Spans& spans = task.spans;
  if (spans.first >= spans.end) return;
  const int absent = kChunkPlanes - pass.bits;
  const int64_t plane_words = int64_t{tiles_of(task.segment)} * pass.superblocks * kSuperblockWords;
  const uint4* tiles[kChunkPlanes];
  HalfWords planes[kChunkPlanes] = {};  // those that are absent stay 0
#pragma unroll
  for (int p = 0; p < kChunkPlanes; ++p) {
    tiles[p] =
        in_register(tile_words(task.segment, pass, task.tile, 0, task.lane) + (p - absent) * plane_words);
  }
  const auto load = [&](int span, int half) {
#pragma unroll
    for (int p = 0; p < kChunkPlanes; ++p) {
      const uint4* const words = in_register(advance(tiles[p], span, kSuperblockWords));
      if (p >= absent) planes[p].load(words, half);
    }
  };
  load(spans.first, 0);
  source.begin_pass();
#pragma unroll 1
  for (int span = spans.first; span < spans.end; span = Spans::after(span)) {
    source.next_span(span);
    const Nibbles first(planes);
    load(span, 1);
    multiply(0, first);
    const Nibbles second(planes);
    if (span + 1 < spans.end) load(span + 1, 0);
    multiply(1, second);
  }
}

template <int kColumnTiles>
LOWBIT_DEVICE void whole_planes_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                                     int (&sums)[kColumnTiles][4]) {
  CodePointers<kColumnTiles> codes(task, x);
  int halves[2][kColumnTiles][4] = {};  // of nibbles: the upper ones count 16 times
  walk_planes(task, pass, codes, [&](int half, const Nibbles& digits) {
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      FieldColumns columns[kColumnTiles];
      codes.load_half(field, half, columns);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        uint32_t a[4];
        digits.operand(field, q, a);
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) mma_u8s8(halves[field / 4][c], a, columns[c].b[2 * half + q]);
      }
    }
  });
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[c][i] = (sums[c][i] << pass.bits) + halves[0][c][i] + (halves[1][c][i] >> 4);
    }
  }
}

// By 32 inputs, units are added in the order of the loop: steps 0 and 1 of all fields of a span, then 2
// and 3.
template <int kColumnTiles, Flush kFlush, class T>
LOWBIT_DEVICE void grouped_planes_pass(const WarpTask& task, const Columns& x, const Pass& pass,
                                       float (&y)[kColumnTiles][4]) {
  constexpr bool kBySteps = kFlush == Flush::by_32;
  GroupedSource<kColumnTiles, kFlush, T, true, false, false> source(task, x, pass);
  int sums[kSpanFields][kColumnTiles][4];
  walk_planes(task, pass, source, [&](int half, const Nibbles& digits) {
#pragma unroll
    for (int field = 0; field < kSpanFields; ++field) {
      const Magic start(Nibbles::shift(field));
      if (kBySteps) __syncwarp();  // loads of later fields stay behind it, or registers would run out
      FieldColumns columns[kColumnTiles];
      source.codes.load_half(field, half, columns);
      if (kBySteps || half == 1) source.visit(field);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int q = 2 * half + i;
        uint32_t a[4];
        digits.operand(field, i, a);
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          multiply_step(sums[field][c], a, columns[c].b[q], kBySteps || q == 0, start.c);
          if (kBySteps || q + 1 == kSteps) {
            source.flush(sums[field][c], start.c, 0, field, kBySteps ? q : 0, c, y[c]);
          }
        }
      }
    }
  });
}

}  // namespace lowbit::cuda
