// Scales inside a row, for products that leave the integers after every 128 or 32 inputs.
#pragma once

#include <type_traits>

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

// A row of values of T, kPerField for each field of 128 inputs. Fields are visited in ascending order inside
// a span, with `field` known when compiled; 16 bytes are loaded where the first value in them is met.
template <class T, int kPerField>
class FieldValues {
 public:
  FieldValues() = default;
  LOWBIT_DEVICE explicit FieldValues(const T* row) : row_(in_register(reinterpret_cast<const uint4*>(row))) {}

  LOWBIT_DEVICE void visit(int span, int field) {
    if (field == 0) span_ = in_register(advance(row_, span, kWordsPerSpan));
    if (field * kPerField % kPerWord == 0) raw_ = load_cached(span_ + field * kPerField / kPerWord);
  }
  LOWBIT_DEVICE float at(int field, int index) const {
    return value_of<T>(raw_, (field * kPerField + index) % kPerWord);
  }

 private:
  static constexpr int kPerWord = sizeof(uint4) / sizeof(T);
  static constexpr int kWordsPerSpan = kSpanFields * kPerField / kPerWord;

  const uint4* row_;
  const uint4* span_;
  uint4 raw_;
};

// Scales and sums of the activations of the two columns of each tile of eight whose sums a lane holds. With
// kPairs the two are one token, 256 v0 + v1, and share them.
template <int kColumnTiles, Flush kFlush, bool kPairs = false>
struct ColumnScales {
  static constexpr int kEach = kPairs ? 1 : 2;

  FieldValues<float, 1> scales[kColumnTiles][kEach];
  FieldValues<float, units_per_field(kFlush)> sums[kColumnTiles][kEach];

  LOWBIT_DEVICE ColumnScales(const Columns& x, int set, int first_column, int lane) {
    const int last = static_cast<int>(x.tokens) - 1;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int column = first_column + 8 * c + 2 * (lane & 3) + i;
        const int token = min(x.per_token == 2 ? column >> 1 : column, last);
        scales[c][i] = FieldValues<float, 1>(x.scales_of(set, token));
        if constexpr (has_units(kFlush)) {
          sums[c][i] = FieldValues<float, units_per_field(kFlush)>(x.sums_of(set, token));
        }
      }
    }
  }

  LOWBIT_DEVICE void visit(int span, int field) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        scales[c][i].visit(span, field);
        if constexpr (has_units(kFlush)) sums[c][i].visit(span, field);
      }
    }
  }
};

// Scales of the weight of the two rows whose sums a lane holds.
template <Flush kFlush, class T>
struct RowScales {
  FieldValues<T, units_per_field(kFlush)> rows[2];

  LOWBIT_DEVICE RowScales(const LayerParams& layer, const SegmentParams& segment, int tile, int lane) {
    if constexpr (has_units(kFlush)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t row = int64_t{kRowTile} * tile + (lane >> 2) + 8 * i;
        rows[i] = FieldValues<T, units_per_field(kFlush)>(static_cast<const T*>(segment.scales) +
                                                          row * layer.units);
      }
    }
  }

  LOWBIT_DEVICE void visit(int span, int field) {
    if constexpr (has_units(kFlush)) {
      rows[0].visit(span, field);
      rows[1].visit(span, field);
    }
  }
};

// INTEGER SUMS AS FLOATS. An accumulator that starts at the bits of 1.5 * 2^e holds, as a float, 1.5 * 2^e
// plus the integer sum times that float's last place, 2^(e - 23). A sum of field f is 2^(w f) times what it
// stands for, so with e = 23 - w f one subtraction gives the exact value, field shift included. This holds
// while the integer stays below 2^22 = 4,194,304; the largest is 128 inputs * 128 * 255 = 4,177,920, of whole
// bytes.
LOWBIT_HOST_DEVICE constexpr int magic_bits(int shift) {
  return 0x4b400000 - (shift << 23);
}

// Four of them as the initial accumulator of a product.
struct Magic {
  int c[4];

  LOWBIT_DEVICE explicit Magic(int shift) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] = magic_bits(shift);
  }
};

// y += scale of the row * (sum * scale of the column + share of its sums), where sum = sums - start, exactly.
template <Flush kFlush, class T, bool kShare>
struct Flusher {
  RowScales<kFlush, T> rows;
  float share;

  template <int kColumnTiles>
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&start)[4], int field, int unit,
                           const ColumnScales<kColumnTiles, kFlush>& columns, int tile, float (&y)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = __int_as_float(sums[i]) - __int_as_float(start[i]);
      const float scale = columns.scales[tile][i & 1].at(field, 0);
      if constexpr (kFlush == Flush::row) {
        y[i] = fmaf(sum, scale, y[i]);
      } else {
        float rest = columns.sums[tile][i & 1].at(field, unit);
        if (kShare) rest *= share;
        y[i] = fmaf(fmaf(sum, scale, rest), rows.rows[i >> 1].at(field, unit), y[i]);
      }
    }
  }

  // Both columns of a token, to the second's y: the first's stays 0.
  template <int kColumnTiles>
  LOWBIT_DEVICE void flush(const int (&sums)[4], const int (&start)[4], int field, int unit,
                           const ColumnScales<kColumnTiles, kFlush, true>& columns, int tile,
                           float (&y)[4]) const {
    static_assert(has_units(kFlush) && !kShare);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float high = __int_as_float(sums[2 * r]) - __int_as_float(start[2 * r]);
      const float low = __int_as_float(sums[2 * r + 1]) - __int_as_float(start[2 * r + 1]);
      const float rest = 257.0f * columns.sums[tile][0].at(field, unit);
      const float scaled = fmaf(fmaf(256.0f, high, low), columns.scales[tile][0].at(field, 0), rest);
      y[2 * r + 1] = fmaf(scaled, rows.rows[r].at(field, unit), y[2 * r + 1]);
    }
  }
};

}  // namespace lowbit::cuda
