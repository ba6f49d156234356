// Scales inside a row, for products that leave the integers after every 128 or 32 inputs.
#pragma once

#include <type_traits>

#include "cuda/activations/reduce.h"
#include "cuda/bits/fragments.h"

namespace lowbit::cuda {

// When sums leave the integers: never before the end of a row; after 128 inputs, because the activations have
// scales
// (`row`: the weight has none inside a row) or the weight has them as well; after 32 inputs.
enum class Flush { never, row, by_128, by_32 };

LOWBIT_HOST_DEVICE constexpr bool has_units(Flush flush) {
  return flush == Flush::by_128 || flush == Flush::by_32;
}
LOWBIT_HOST_DEVICE constexpr int units_per_field(Flush flush) {
  return flush == Flush::by_32 ? 4 : 1;
}

// The word at `index` of a register that holds 16 bytes.
LOWBIT_DEVICE uint32_t word_of(const uint4& raw, int index) {
  return index == 0 ? raw.x : index == 1 ? raw.y : index == 2 ? raw.z : raw.w;
}

// Value `index` of 16 bytes of T.
template <class T>
LOWBIT_DEVICE float value_of(const uint4& raw, int index) {
  if constexpr (std::is_same_v<T, float>) {
    return __uint_as_float(word_of(raw, index));
  } else {
    const uint32_t pair = word_of(raw, index >> 1);
    if constexpr (std::is_same_v<T, __half>) {
      const auto bits = static_cast<unsigned short>(index & 1 ? pair >> 16 : pair);
      return __half2float(__ushort_as_half(bits));
    } else if constexpr (std::is_same_v<T, int16_t>) {
      return static_cast<float>(static_cast<int16_t>(index & 1 ? pair >> 16 : pair));
    } else {
      return __uint_as_float(index & 1 ? pair & 0xffff0000u : pair << 16);
    }
  }
}

// Values of T, kPerField for each field of 128 inputs, kStride words of 16 bytes from one word of them to the
// next. Fields are visited in ascending order inside a span, with `field` known when compiled; a word is
// loaded where its first value is met.
template <class T, int kPerField, int kStride, uint4 kLoad(const uint4*), bool kStepping>
class FieldValues {
 public:
  FieldValues() = default;
  LOWBIT_DEVICE FieldValues(const T* first, const Spans& spans) : words_(first, spans) {}

  LOWBIT_DEVICE void next_span(int span) { words_.next_span(span); }
  LOWBIT_DEVICE void visit(int field) {
    if (field * kPerField % kPerWord == 0) raw_ = kLoad(words_ + field * kPerField / kPerWord * kStride);
  }
  LOWBIT_DEVICE float at(int field, int index) const {
    return value_of<T>(raw_, (field * kPerField + index) % kPerWord);
  }

 private:
  static constexpr int kPerWord = sizeof(uint4) / sizeof(T);

  SpanPointer<kSpanFields * kPerField / kPerWord * kStride, kStepping> words_;
  uint4 raw_;
};

// Of a row of the weight.
template <class T, int kPerField, bool kStepping = false>
using RowValues = FieldValues<T, kPerField, 1, load_constant, kStepping>;

// Of the tokens of two columns next to each other (cuda/activations/columns.h). Where tokens have one column
// (kSingle), theirs lie side by side; those that do not exist can be read, and nothing of what is computed
// with them is stored.
template <int kPerField, bool kSingle>
class TokenValues {
 public:
  TokenValues() = default;
  LOWBIT_DEVICE TokenValues(const float* first, const float* second, const Spans& spans)
      : words_{{first, spans}} {
    if (!kSingle) words_[kPointers - 1] = {second, spans};
  }

  LOWBIT_DEVICE void next_span(int span) {
#pragma unroll
    for (int i = 0; i < kPointers; ++i) words_[i].next_span(span);
  }
  LOWBIT_DEVICE void visit(int field) {
    if (field * kPerField % 4 != 0) return;
    const int word = field * kPerField / 4 * kTileTokens;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      raw_[i] = load_cached(kSingle ? words_[0] + (word + i) : words_[i % kPointers] + word);
    }
  }
  LOWBIT_DEVICE float at(int i, int field, int index) const {
    return value_of<float>(raw_[i], (field * kPerField + index) % 4);
  }

 private:
  static constexpr int kPointers = kSingle ? 1 : 2;

  SpanPointer<kSpanFields * kPerField / 4 * kTileTokens, false> words_[kPointers];
  uint4 raw_[2];
};

// Scales and sums of the activations of the two columns of each tile of eight whose sums a lane holds.
template <int kColumnTiles, Flush kFlush, bool kSingle>
struct ColumnScales {
  TokenValues<1, kSingle> scales[kColumnTiles];
  TokenValues<units_per_field(kFlush), kSingle> sums[kColumnTiles];

  LOWBIT_DEVICE ColumnScales(const WarpTask& task, const Columns& x) {
    const int last = static_cast<int>(x.tokens) - 1, set = task.segment.set;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int column = task.first_column + kTileColumns * c + 2 * (task.lane & 3);
      const int first = kSingle ? column : min(x.per_token == 2 ? column >> 1 : column, last);
      const int second = min(x.per_token == 2 ? first : first + 1, last);
      scales[c] = {x.scales_of(set, first), x.scales_of(set, second), task.spans};
      if constexpr (has_units(kFlush)) sums[c] = {x.sums_of(set, first), x.sums_of(set, second), task.spans};
    }
  }

  LOWBIT_DEVICE void begin_pass() const {}
  LOWBIT_DEVICE void next_span(int span) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      scales[c].next_span(span);
      if constexpr (has_units(kFlush)) sums[c].next_span(span);
    }
  }
  LOWBIT_DEVICE void visit(int field) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) scales[c].visit(field);
    if constexpr (has_units(kFlush)) visit_sums(field);
  }
  LOWBIT_DEVICE void visit_sums(int field) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) sums[c].visit(field);
  }

  LOWBIT_DEVICE float sum(int tile, int i, int field, int unit) const {
    return sums[tile].at(i, field, unit);
  }
};

// Sums of the activations count once for either column of a token, 257 times together: what a pair of columns
// adds up to is smaller by this.
inline constexpr float kSecondSums = 257.0f;

// The same where a token has two columns, 256 v0 + v1, and one scale for all of them. Tokens of a pass lie in
// one tile, so those that do not exist can be read; nothing of what is computed with them is stored.
template <int kColumnTiles, Flush kFlush>
struct PairScales {
  static constexpr int kUnits = units_per_field(kFlush);
  using Sums = SpanPointer<kSpanFields * kUnits / 4 * kTileTokens, true>;

  const float* scales;
  float scale[kColumnTiles];
  Sums sums;
  uint4 raw[kColumnTiles];

  LOWBIT_DEVICE PairScales(const WarpTask& task, const Columns& x)
      : scales(x.scales_of(task.segment.set, token_of(task))),
        sums(x.sums_of(task.segment.set, token_of(task)), task.spans) {}

  LOWBIT_DEVICE void begin_pass() {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) scale[c] = load_cached(scales + 16 * c) / kSecondSums;
  }
  LOWBIT_DEVICE void next_span(int span) { sums.next_span(span); }
  LOWBIT_DEVICE void visit(int field) { visit_sums(field); }
  LOWBIT_DEVICE void visit_sums(int field) {
    if (field * kUnits % 4 != 0) return;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      raw[c] = load_cached(sums + (field * kUnits / 4 * kTileTokens + 4 * c));
    }
  }
  LOWBIT_DEVICE float sum(int tile, int, int field, int unit) const {
    return value_of<float>(raw[tile], (field * kUnits + unit) % 4);
  }

 private:
  static LOWBIT_DEVICE int token_of(const WarpTask& task) { return task.first_column / 2 + (task.lane & 3); }
};

// Of sums that are read as subnormal numbers: tokens of one column.
template <int kColumnTiles>
struct GroupScales {
  SpanPointer<kSpanFields * kGroupTokens / 2, kColumnTiles == 2> words;
  uint4 raw[kColumnTiles];

  LOWBIT_DEVICE GroupScales(const WarpTask& task, const Columns& x)
      : words(x.groups_of(task.segment.set, task.first_column + 2 * (task.lane & 3)), task.spans) {}

  LOWBIT_DEVICE void begin_pass() const {}
  LOWBIT_DEVICE void next_span(int span) { words.next_span(span); }
  LOWBIT_DEVICE void visit(int field) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      raw[c] = load_cached(words + (field * kGroupTokens + kTileColumns * c) / 2);
    }
  }
};

template <int kColumnTiles, Flush kFlush, bool kPairs, bool kSingle>
using ScalesOf =
    std::conditional_t<kPairs, PairScales<kColumnTiles, kFlush>, ColumnScales<kColumnTiles, kFlush, kSingle>>;

// Scales of the weight of the two rows whose sums a lane holds.
template <Flush kFlush, class T, bool kStepping = false>
struct RowScales {
  RowValues<T, units_per_field(kFlush), kStepping> rows[2];

  LOWBIT_DEVICE explicit RowScales(const WarpTask& task) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = int64_t{kRowTile} * task.tile + (task.lane >> 2) + 8 * i;
      rows[i] = {static_cast<const T*>(task.segment.scales) + row * task.layer.units, task.spans};
    }
  }

  LOWBIT_DEVICE void next_span(int span) {
    rows[0].next_span(span);
    rows[1].next_span(span);
  }
  LOWBIT_DEVICE void visit(int field) {
    rows[0].visit(field);
    rows[1].visit(field);
  }
};

// None inside a row.
template <class T, bool kStepping>
struct RowScales<Flush::row, T, kStepping> {
  LOWBIT_DEVICE explicit RowScales(const WarpTask&) {}
  LOWBIT_DEVICE void next_span(int) const {}
  LOWBIT_DEVICE void visit(int) const {}
};

// INTEGER SUMS AS FLOATS. An accumulator that starts at the bits of 1.5 * 2^e holds, as a float, 1.5 * 2^e
// plus the integer sum times that float's last place, 2^(e - 23). A sum of field f is 2^(w f) times what it
// stands for, so with e = 23 - w f one subtraction gives the exact value, field shift included. This holds
// while the integer stays below 2^22 = 4,194,304; the largest is 128 inputs * 128 * 255 = 4,177,920, of whole
// bytes.
inline constexpr int kNoMagic = -1;  // they stay integers
LOWBIT_HOST_DEVICE constexpr int magic_bits(int shift) {
  return shift == kNoMagic ? 0 : 0x4b400000 - (shift << 23);
}

// AS SUBNORMAL NUMBERS, without the subtraction: an integer in [0, 2^23) is, read as a float, 2^-149 times as
// large, which a multiply-add takes exactly. One-bit digits of a field start from P, a power of two above the
// sum of 128 codes (subnormal_start()), and so stay below 2^23. The multiply-add adds the rest, which takes P
// away again. In `fast` the rest is rounded, by 2^-24 (P + sum |code| / 2) <= 2^-24 (32768 + 8128) = 0.0025
// of a scale, and the multiply-add once more, by 2^-24 8128 = 0.0005; where a weight is +-1/2 the contract
// allows 1e-5 |code| sqrt(128) / 2 >= 0.0071 for 128 codes whose largest is 127, and, by Cauchy and Schwarz,
// the sum of that for all groups. Adding the groups up rounds as in every other loop. Where a token has one
// scale neither of the two rounds anything.
//
// A row's y is kept 2^-23 times as large, and without the token's range. Row scales in fp16, 2^-24 to 65,504,
// leave it far inside a float's range; the smallest of bf16 and float do not, and take a subtraction.
template <class T>
LOWBIT_HOST_DEVICE constexpr bool reads_subnormal(int width, Flush flush, bool share, bool pairs) {
  return width == 1 && flush == Flush::by_128 && !share && !pairs && std::is_same_v<T, __half>;
}

// Four of them as the initial accumulator of a product.
struct Magic {
  int c[4];

  Magic() = default;
  LOWBIT_DEVICE explicit Magic(int shift) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] = magic_bits(shift);
  }
};

// Those of all fields. They come from other lanes, each from one of its own: of what it can compute the
// compiler keeps one, and copies it to four registers for every product.
template <bool kSubnormal>
struct Starts {
  LOWBIT_DEVICE explicit Starts(int) {}
  LOWBIT_DEVICE Magic of(int shift) const { return Magic(shift); }
};
template <>
struct Starts<true> {
  Magic fields[kSpanFields / 2];

  LOWBIT_DEVICE explicit Starts(int start) {
    const int own = subnormal_start(start, static_cast<int>(threadIdx.x % kSpanFields));
#pragma unroll
    for (int f = 0; f < kSpanFields; f += 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fields[f / 2].c[i] = __shfl_sync(kAllLanes, own, f + kSpanFields * i);
    }
  }
  LOWBIT_DEVICE const Magic& of(int field) const { return fields[field / 2]; }
};

// y += scale of the row * (sum * scale of the column + share of its sums), where sum = sums - start, exactly.
template <Flush kFlush, class T, bool kShare, bool kStepping>
struct Flusher {
  RowScales<kFlush, T, kStepping> rows;
  float share;

  template <int kColumnTiles, bool kSingle>
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&start)[4], int, int field, int unit,
                           const ColumnScales<kColumnTiles, kFlush, kSingle>& columns, int tile,
                           float (&y)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = __int_as_float(sums[i]) - __int_as_float(start[i]);
      const float scale = columns.scales[tile].at(i & 1, field, 0);
      if constexpr (kFlush == Flush::row) {
        y[i] = fmaf(sum, scale, y[i]);
      } else {
        float rest = columns.sums[tile].at(i & 1, field, unit);
        if (kShare) rest *= share;
        y[i] = fmaf(fmaf(sum, scale, rest), rows.rows[i >> 1].at(field, unit), y[i]);
      }
    }
  }

  // Sums that are read as subnormal numbers.
  template <int kColumnTiles>
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&)[4], int, int field, int unit,
                           const GroupScales<kColumnTiles>& columns, int tile, float (&y)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float scale = value_of<float>(columns.raw[tile], 2 * (i & 1));
      const float rest = value_of<float>(columns.raw[tile], 2 * (i & 1) + 1);
      y[i] = fmaf(fmaf(__int_as_float(sums[i]), scale, rest), rows.rows[i >> 1].at(field, unit), y[i]);
    }
  }

  // Both columns of a token, to the second's y: the first's stays 0. Integers still, 256 times 4,177,920 at
  // most, which are rounded once.
  template <int kColumnTiles>
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&start)[4], int shift, int field, int unit,
                           const PairScales<kColumnTiles, kFlush>& columns, int tile, float (&y)[4]) const {
    static_assert(has_units(kFlush) && !kShare);
    const float scale = columns.scale[tile] * (1.0f / static_cast<float>(1 << shift));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int high = sums[2 * r] - start[2 * r], low = sums[2 * r + 1] - start[2 * r + 1];
      const float scaled =
          fmaf(static_cast<float>(256 * high + low), scale, columns.sum(tile, 1, field, unit));
      y[2 * r + 1] = fmaf(scaled, rows.rows[r].at(field, unit), y[2 * r + 1]);
    }
  }
};

}  // namespace lowbit::cuda
