// The activation kernels as templates over the instruction set's traits V (cpu/isa/inline.h).
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/activations/activations.h"
#include "cpu/isa/inline.h"

namespace lowbit {

// Blocks in a vector: of one, or of two where a vector has 16 lanes.
//   load   floats a[0..7], and behind them b[0..7]
//   sums   of a block's lanes
template <class V>
struct Octets {
  static LOWBIT_INLINE typename V::F32 load(const float* a, const float*) { return V::fload(a); }
  static LOWBIT_INLINE void sums(typename V::I32 totals, int32_t* out) { *out = V::horizontal_sum(totals); }
};

template <class V>
class ActivationKernel {
 public:
  static constexpr ActivationKernels table() { return {widen, dot, mix, finite, quantize}; }

  static void widen(const void* x, lowbit_dtype dtype, int64_t n, float* out) {
    with_dtype(dtype, [&]<lowbit_dtype kDtype>() {
      each_step<4>(n, [&]<int kSteps>(int64_t k, int64_t count) {
        for (int i = 0; i < kSteps; ++i) {
          store(out + k + i * kLanes, count, load<kDtype>(x, k + i * kLanes, count));
        }
      });
    });
  }

  static float dot(const float* x, const void* table, lowbit_dtype dtype, int64_t n) {
    // Four chains of dependent additions; which one a k belongs to depends on n alone.
    F32 sums[4] = {V::fset1(0), V::fset1(0), V::fset1(0), V::fset1(0)};
    with_dtype(dtype, [&]<lowbit_dtype kDtype>() {
      each_step<4>(n, [&]<int kSteps>(int64_t k, int64_t count) {
        for (int i = 0; i < kSteps; ++i) {
          sums[i] = V::fma(load<LOWBIT_F32>(x, k + i * kLanes, count),
                           load<kDtype>(table, k + i * kLanes, count), sums[i]);
        }
      });
    });
    return reduce(V::fadd(V::fadd(sums[0], sums[1]), V::fadd(sums[2], sums[3])),
                  [](float a, float b) { return a + b; });
  }

  static void mix(const float* x, const void* tables, lowbit_dtype dtype, const float* gates, int32_t experts,
                  int64_t n, float* out) {
    with_dtype(dtype, [&]<lowbit_dtype kDtype>() {
      each_step<4>(n, [&]<int kSteps>(int64_t k, int64_t count) {
        F32 scales[kSteps];
        for (int i = 0; i < kSteps; ++i) scales[i] = V::fset1(0);
        for (int32_t e = 0; e < experts; ++e) {
          const F32 gate = V::fset1(gates[e]);
          for (int i = 0; i < kSteps; ++i) {
            scales[i] = V::fma(gate, load<kDtype>(tables, e * n + k + i * kLanes, count), scales[i]);
          }
        }
        for (int i = 0; i < kSteps; ++i) {
          store(out + k + i * kLanes, count, V::fmul(load<LOWBIT_F32>(x, k + i * kLanes, count), scales[i]));
        }
      });
    });
  }

  static bool finite(const float* x, int64_t n) {
    F32 bad = V::fset1(0);
    for (int64_t k = 0; k < n; k += kLanes) bad = V::fma(V::fload(x + k), V::fset1(0), bad);
    return sum_is_zero(bad);
  }

  static void quantize(const float* x, const CodeFormat& format, int8_t* codes, int32_t* sums,
                       float* scales) {
    if (!find_amax(x, format, scales)) {
      // NaN scales alone make the whole row of y NaN.
      clear(format, codes, sums);
      for (int64_t b = 0; b < format.k_blocks; b += format.x_group_blocks) {
        *scales++ = std::numeric_limits<float>::quiet_NaN();
      }
    } else if (format.bits == 0) {
      format.per_token == 1 ? encode<false, 1>(x, format, codes, sums, scales)
                            : encode<false, 2>(x, format, codes, sums, scales);
    } else {
      format.per_token == 1 ? encode<true, 1>(x, format, codes, sums, scales)
                            : encode<true, 2>(x, format, codes, sums, scales);
      clear_padding(format, codes, sums);
    }
  }

 private:
  using I32 = typename V::I32;
  using F32 = typename V::F32;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kBlock = LOWBIT_BLOCK_INPUTS;
  // A vector of code dwords holds a part of a block's eight, or two blocks.
  static constexpr int kBlocksPerStep = kLanes == 16 ? 2 : 1;
  static constexpr int kDwordsPerStep = kLanes < 8 ? kLanes : 8;

  template <class Body>
  static LOWBIT_INLINE void with_dtype(lowbit_dtype dtype, Body body) {
    if (dtype == LOWBIT_F16) {
      body.template operator()<LOWBIT_F16>();
    } else if (dtype == LOWBIT_BF16) {
      body.template operator()<LOWBIT_BF16>();
    } else {
      body.template operator()<LOWBIT_F32>();
    }
  }

  // body<steps>(k, count) for steps vectors of values from k on; the last call may have count < kLanes.
  template <int kUnroll, class Body>
  static LOWBIT_INLINE void each_step(int64_t n, Body body) {
    int64_t k = 0;
    for (; k + kUnroll * kLanes <= n; k += kUnroll * kLanes) body.template operator()<kUnroll>(k, kLanes);
    for (; k + kLanes <= n; k += kLanes) body.template operator()<1>(k, kLanes);
    if (k < n) body.template operator()<1>(k, n - k);
  }

  template <lowbit_dtype kDtype>
  static LOWBIT_INLINE F32 load(const void* data, int64_t k, int64_t count) {
    if constexpr (kDtype == LOWBIT_F32) {
      const float* p = static_cast<const float*>(data) + k;
      if (count >= kLanes) return V::fload(p);
      float padded[kLanes] = {};
      std::memcpy(padded, p, count * sizeof(float));
      return V::fload(padded);
    } else {
      const uint16_t* p = static_cast<const uint16_t*>(data) + k;
      uint16_t padded[kLanes] = {};
      if (count < kLanes) {
        std::memcpy(padded, p, count * sizeof(uint16_t));
        p = padded;
      }
      return kDtype == LOWBIT_F16 ? V::load_f16(p) : V::load_bf16(p);
    }
  }

  static LOWBIT_INLINE void store(float* p, int64_t count, F32 value) {
    if (count >= kLanes) return V::fstore(p, value);
    float padded[kLanes];
    V::fstore(padded, value);
    std::memcpy(p, padded, count * sizeof(float));
  }

  // Halves, quarters, ...: the same tree for every caller.
  template <class Combine>
  static LOWBIT_INLINE float reduce(F32 a, Combine combine) {
    float lanes[kLanes];
    V::fstore(lanes, a);
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] = combine(lanes[i], lanes[i + half]);
    }
    return lanes[0];
  }

  static LOWBIT_INLINE bool sum_is_zero(F32 a) {
    return reduce(a, [](float p, float q) { return p + q; }) == 0.0f;
  }

  // The largest magnitude of every group; false when a value is NaN or infinite.
  static bool find_amax(const float* x, const CodeFormat& format, float* amax) {
    // Magnitudes are ordered as their bits are, and those that are not finite come last.
    constexpr int32_t kInfinity = 0x7f800000;
    int32_t all = 0;
    for (int64_t b = 0; b < format.k_blocks; b += format.x_group_blocks) {
      I32 largest = V::set1(0);
      for (int64_t k = b * kBlock; k < group_end(format, b) * kBlock; k += kLanes) {
        largest = V::max(largest, V::bit_and(V::load(x + k), V::set1(0x7fffffff)));
      }
      const int32_t bits = V::horizontal_max(largest);
      std::memcpy(amax++, &bits, sizeof bits);
      all = bits > all ? bits : all;
    }
    return all < kInfinity;
  }

  // `scales` holds the largest magnitudes and receives the scales.
  template <bool kBipolar, int kColumns>
  static void encode(const float* x, const CodeFormat& format, int8_t* codes, int32_t* sums, float* scales) {
    const float max_code = static_cast<float>(format.max_code);
    for (int64_t b = 0; b < format.k_blocks; b += format.x_group_blocks, ++scales) {
      float inverse = max_code / *scales;
      if (inverse <= FLT_MAX) {
        *scales /= max_code;
      } else {
        *scales = inverse = 0.0f;
        // There is no zero among bipolar values. Their only group is the whole token.
        if constexpr (kBipolar) return clear(format, codes, sums);
      }
      const int64_t end = group_end(format, b);
      for (int64_t block = b; block < end; block += kBlocksPerStep) {
        encode_step<kBipolar, kColumns>(x, format, V::fset1(inverse), block, block + kBlocksPerStep <= end,
                                        codes, sums);
      }
    }
  }

  // Block `block` and, where a vector holds two and `full` says that there is another, the one behind it.
  template <bool kBipolar, int kColumns>
  static LOWBIT_INLINE void encode_step(const float* x, const CodeFormat& format, F32 inverse, int64_t block,
                                        bool full, int8_t* codes, int32_t* sums) {
    static constexpr float kNothing[kBlock] = {};
    const float* const first = x + block * kBlock;
    const float* const second = full ? first + kBlock : kNothing;
    I32 totals[kColumns];
    for (I32& total : totals) total = V::set1(0);
    for (int j = 0; j < 8; j += kDwordsPerStep) {
      I32 values[4], high[4];
      for (int c = 0; c < 4; ++c) {
        const F32 scaled = V::fmul(Octets<V>::load(first + 8 * c + j, second + 8 * c + j), inverse);
        values[c] = kBipolar ? odd_value(scaled, format) : V::to_int(scaled);
        if constexpr (kColumns == 2) {
          high[c] = kBipolar ? V::template shift_right<4>(values[c])
                             : V::template shift_right<8>(V::add(values[c], V::set1(128)));
          // The low byte of v is v - 256 v0.
          values[c] = kBipolar ? V::bit_and(values[c], V::set1(15))
                               : V::template shift_right<24>(V::template shift_left<24>(values[c]));
        }
      }
      const int64_t position = block * kBlock + 4 * j;
      if constexpr (kColumns == 1) {
        totals[0] = V::add(totals[0], put_codes(values, full, codes + position));
      } else {
        totals[0] = V::add(totals[0], put_codes(high, full, codes + position));
        totals[1] = V::add(totals[1], put_codes(values, full, codes + format.k_blocks * kBlock + position));
      }
    }
    for (int column = 0; column < kColumns; ++column) {
      put_sums(totals[column], full, sums + column * format.k_blocks + block);
    }
  }

  // 2 floor((t + 2^A) / 2) - (2^A - 1). No clamp: |t| exceeds 2^A - 1 by its rounding only, far less than 1.
  static LOWBIT_INLINE I32 odd_value(F32 t, const CodeFormat& format) {
    const F32 half = V::fmul(V::fadd(t, V::fset1(static_cast<float>(format.max_code + 1))), V::fset1(0.5f));
    const I32 nearest = V::to_int(half);
    // Rounded up: the difference is negative and its sign bit, spread over the lane, is the -1 that floor
    // needs.
    const F32 below = V::fsub(half, V::to_float(nearest));
    const I32 floor = V::add(nearest, V::template shift_right<31>(__builtin_bit_cast(I32, below)));
    return V::add(V::template shift_left<1>(floor), V::set1(-format.max_code));
  }

  // Stores values[c] as byte c of each dword; returns the sum of each dword's
  // four signed bytes.
  static LOWBIT_INLINE I32 put_codes(const I32 (&values)[4], bool full, int8_t* codes) {
    const I32 packed = V::pack_bytes(values);
    if (full) {
      V::store(codes, packed);
    } else {
      int8_t both[4 * kLanes];
      V::store(both, packed);
      std::memcpy(codes, both, kBlock);
    }
    return V::template fold<0>(V::set1(0), V::dot(V::sum_zero(), V::set1(0x01010101), packed));
  }

  static LOWBIT_INLINE void put_sums(I32 totals, bool full, int32_t* sums) {
    int32_t both[kBlocksPerStep];
    Octets<V>::sums(totals, both);
    for (int i = 0; i < (full ? kBlocksPerStep : 1); ++i) sums[i] = both[i];
  }

  static LOWBIT_INLINE int64_t group_end(const CodeFormat& format, int64_t begin) {
    const int64_t end = begin + format.x_group_blocks;
    return end < format.k_blocks ? end : format.k_blocks;
  }

  static void clear(const CodeFormat& format, int8_t* codes, int32_t* sums) {
    std::memset(codes, 0, format.per_token * format.k_blocks * kBlock);
    std::memset(sums, 0, format.per_token * format.k_blocks * sizeof(int32_t));
  }

  // A padding input of 0 has become the bipolar value 1; the contract wants code 0.
  static void clear_padding(const CodeFormat& format, int8_t* codes, int32_t* sums) {
    for (int column = 0; column < format.per_token; ++column) {
      int8_t* const last = codes + ((column + 1) * format.k_blocks - 1) * kBlock;
      int32_t& sum = sums[(column + 1) * format.k_blocks - 1];
      for (int64_t i = format.in_features - (format.k_blocks - 1) * kBlock; i < kBlock; ++i) {
        int8_t& code = last[4 * (i % 8) + i / 8];
        sum -= code;
        code = 0;
      }
    }
  }
};

}  // namespace lowbit
