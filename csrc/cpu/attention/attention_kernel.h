// The two loops of attention for any traits class of cpu/isa.
#pragma once

#include <math.h>

#include <cstring>

#include "core/half.h"
#include "cpu/attention/attention.h"
#include "cpu/isa/floats.h"
#include "cpu/isa/inline.h"

namespace lowbit::attention {

template <class V>
class AttentionKernel {
 public:
  static constexpr AttentionKernels table() { return {stretch, merge}; }

 private:
  using F32 = typename V::F32;
  static constexpr int64_t kLanes = V::kLanes;
  static constexpr int kRows = 4;     // heads at a time: keys and values are widened once for all of them
  static constexpr int kColumns = 4;  // vectors of a value at a time

  // The last values of a row, fewer than a vector, with 0 behind them.
  template <lowbit_dtype kType>
  static LOWBIT_INLINE F32 load_last(const char* data, int64_t index, int64_t count) {
    constexpr int64_t kSize = kType == LOWBIT_F32 ? 4 : 2;
    alignas(64) char last[kLanes * kSize] = {};
    std::memcpy(last, data + index * kSize, static_cast<size_t>((count - index) * kSize));
    return load_floats<V, kType>(last, 0);
  }

  // exp(x) for x <= 0, relative error below 3e-7: 2^n 2^f with |f| <= 1/2 and the series of 2^f to f^6.
  // NaN stays NaN.
  static LOWBIT_INLINE F32 exponential(F32 x) {
    const F32 t = V::fmax(V::fset1(-126.0f), V::fmul(x, V::fset1(1.44269504088896341f)));
    const auto n = V::to_int(t);
    const F32 f = V::fsub(t, V::to_float(n));
    constexpr float kSeries[] = {1.5403530393e-4f,
                                 1.3333558146e-3f,
                                 9.6181291076e-3f,
                                 5.5504108665e-2f,
                                 2.4022650696e-1f,
                                 6.9314718056e-1f,
                                 1.0f};
    F32 power = V::fset1(kSeries[0]);
    for (int i = 1; i < 7; ++i) power = V::fma(power, f, V::fset1(kSeries[i]));
    return V::fmul(power, V::as_float(V::template shift_left<23>(V::add(n, V::set1(127)))));
  }

  template <lowbit_dtype kType, int kHeads>
  static void scores_of(const Stretch& s, int64_t first) {
    const int64_t stride = padded(s.width);
    const float* const query = s.query + first * stride;
    for (int64_t i = 0; i < s.count; ++i) {
      const char* const key = static_cast<const char*>(s.keys) + s.positions[i] * s.key_bytes;
      F32 total[kHeads];
      for (F32& t : total) t = V::fset1(0.0f);
      int64_t k = 0;
      for (; k + kLanes <= s.width; k += kLanes) {
        const F32 values = load_floats<V, kType>(key, k);
        for (int h = 0; h < kHeads; ++h)
          total[h] = V::fma(values, V::fload(query + h * stride + k), total[h]);
      }
      if (k < s.width) {
        const F32 values = load_last<kType>(key, k, s.width);
        for (int h = 0; h < kHeads; ++h)
          total[h] = V::fma(values, V::fload(query + h * stride + k), total[h]);
      }
      for (int h = 0; h < kHeads; ++h) {
        const float score = V::horizontal_sum(total[h]);
        s.scores[(first + h) * kStretch + i] = s.softcap > 0 ? s.softcap * tanhf(score / s.softcap) : score;
      }
    }
  }

  // Scores become their exponentials.
  static void exponentials_of(const Stretch& s, int64_t row, const Part& part) {
    float* const scores = s.scores + row * kStretch;
    float largest = -HUGE_VALF;
    for (int64_t i = 0; i < s.count; ++i) largest = greater(largest, scores[i]);
    part.largest[row] = largest;
    if (largest == -HUGE_VALF) return nothing_of(s, row, part);
    for (int64_t i = s.count; i % kLanes != 0; ++i) scores[i] = largest;
    const F32 shift = V::fset1(largest);
    for (int64_t i = 0; i < s.count; i += kLanes) {
      V::fstore(scores + i, exponential(V::fsub(V::fload(scores + i), shift)));
    }
    float sum = 0.0f;
    for (int64_t i = 0; i < s.count; ++i) sum += scores[i];
    part.sum[row] = sum;
  }

  // All scores are -infinity, which weighs nothing, or NaN, which is the result then.
  static void nothing_of(const Stretch& s, int64_t row, const Part& part) {
    float* const scores = s.scores + row * kStretch;
    part.sum[row] = 0.0f;
    for (int64_t i = 0; i < s.count; ++i) {
      if (scores[i] != scores[i]) part.sum[row] = NAN;
      scores[i] = 0.0f;
    }
  }

  template <lowbit_dtype kType, int kHeads, int kVectors, bool kLast>
  static LOWBIT_INLINE void weigh(const Stretch& s, int64_t first, int64_t column, const Part& part) {
    F32 total[kHeads][kVectors];
    for (auto& row : total) {
      for (F32& t : row) t = V::fset1(0.0f);
    }
    for (int64_t i = 0; i < s.count; ++i) {
      const char* const value = static_cast<const char*>(s.values) + s.positions[i] * s.value_bytes;
      F32 values[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        values[v] = kLast ? load_last<kType>(value, column, s.value_width)
                          : load_floats<V, kType>(value, column + v * kLanes);
      }
      for (int h = 0; h < kHeads; ++h) {
        const F32 weight = V::fset1(s.scores[(first + h) * kStretch + i]);
        for (int v = 0; v < kVectors; ++v) total[h][v] = V::fma(weight, values[v], total[h][v]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      float* const row = part.weighted + (first + h) * padded(s.value_width) + column;
      for (int v = 0; v < kVectors; ++v) V::fstore(row + v * kLanes, total[h][v]);
    }
  }

  template <lowbit_dtype kType, int kHeads>
  static void heads(const Stretch& s, int64_t first, const Part& part) {
    scores_of<kType, kHeads>(s, first);
    for (int h = 0; h < kHeads; ++h) exponentials_of(s, first + h, part);
    int64_t column = 0;
    for (; column + kColumns * kLanes <= s.value_width; column += kColumns * kLanes) {
      weigh<kType, kHeads, kColumns, false>(s, first, column, part);
    }
    for (; column + kLanes <= s.value_width; column += kLanes) {
      weigh<kType, kHeads, 1, false>(s, first, column, part);
    }
    if (column < s.value_width) weigh<kType, kHeads, 1, true>(s, first, column, part);
  }

  template <lowbit_dtype kType>
  static void stretch_of(const Stretch& s, const Part& part) {
    int64_t row = 0;
    for (; row + kRows <= s.rows; row += kRows) heads<kType, kRows>(s, row, part);
    for (; row < s.rows; ++row) heads<kType, 1>(s, row, part);
  }

  static void stretch(const Stretch& s, const Part& part) {
    switch (s.dtype) {
      case LOWBIT_F32:
        return stretch_of<LOWBIT_F32>(s, part);
      case LOWBIT_F16:
        return stretch_of<LOWBIT_F16>(s, part);
      case LOWBIT_BF16:
        return stretch_of<LOWBIT_BF16>(s, part);
    }
  }

  static void merge(const float* largest, const float* sum, const float* weighted, int64_t part_stride,
                    int64_t count, int64_t value_width, void* out, lowbit_dtype dtype) {
    float most = -HUGE_VALF;
    for (int64_t i = 0; i < count; ++i) most = greater(most, largest[i * part_stride]);
    float total = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      if (sum[i * part_stride] != 0.0f)
        total += factor(largest[i * part_stride], most) * sum[i * part_stride];
    }
    for (int64_t column = 0; column < value_width; column += kLanes) {
      F32 result = V::fset1(total == 0.0f ? NAN : 0.0f);
      for (int64_t i = 0; i < count; ++i) {
        if (sum[i * part_stride] == 0.0f) continue;  // nothing seen: its values were never written
        const float weight = factor(largest[i * part_stride], most) / total;
        result = V::fma(V::fset1(weight), V::fload(weighted + i * part_stride + column), result);
      }
      alignas(64) float values[kLanes];
      V::fstore(values, result);
      for (int64_t i = 0; i < kLanes && column + i < value_width; ++i) {
        store_value(out, dtype, column + i, values[i]);
      }
    }
  }

  // Not std::max: an inline function shared with baseline code could be linked from here (core/half.h).
  static float greater(float a, float b) { return a < b ? b : a; }

  static float factor(float largest, float most) { return largest == most ? 1.0f : expf(largest - most); }
};

}  // namespace lowbit::attention
