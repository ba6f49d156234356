// Products with scalar tables: w[n][k] = tables[n][code(n, k)].
//
// Digits. A row's table is written in fixed point, T = step (U - half) with U an unsigned integer of three
// digits of kDigitBits bits and step = amax / (half - 4), half = 2^(3 kDigitBits - 1). A look-up of each
// digit gives unsigned bytes that meet the int8 activations in exact byte products, so a chunk costs, beyond
// the codes, three look-ups and three products per vector of inputs. With D2, D1, D0 the sums of the digits
// over the 32 inputs of a lane and q the activation scale of these inputs,
//
//   y = step (sum over chunks and lanes of q (2^(2 kDigitBits) D2 + 2^kDigitBits D1 + D0) - half sum of x)
//
// The table's error, half a step = 2^-(3 kDigitBits) of the row's largest entry, is below fp32 rounding of a
// sum.
//
// Floats. Look-ups of fp32 entries and one fma per vector of inputs.
//
// A traits class of this kernel extends the instruction set's traits (cpu/isa/inline.h) by
//   kDigitBits, kMaxDigitBits, kTableRows (rows that share the activations of one token),
//   kTableTokens (of a block)
//   select(mask, a, b)       bit by bit, a where the mask is 1
//   load_part(p, n)          the first n bytes of a vector, the rest 0
//   Digits<B>                three look-up tables, with build(row, dtype) -> step and look(digit, index)
//   byte_products(sum, u, x) like dot, but into 32-bit lanes whatever the instruction set
//   Entries<B>               an fp32 table, with build(row, dtype) and pick<shift>(index): entry of bits
//   shift.. horizontal_sum(a)        of the lanes, in one fixed order
#pragma once

#include <cstdint>
#include <utility>

#include "core/half.h"
#include "cpu/codebook/codebook.h"
#include "cpu/codebook/codes.h"

namespace lowbit::codebook {

template <class V, int kBits>
struct TablesKernel {
  using I32 = typename V::I32;
  using F32 = typename V::F32;

  static constexpr int64_t kChunkBytes = 4 * V::kLanes;
  static constexpr int64_t kChunkInputs = 8 * kChunkBytes;

  // The planes of one row.
  struct Row {
    const uint8_t* first;  // of plane 0
    int64_t plane_stride;
    int64_t bytes;  // of the row in one plane

    LOWBIT_INLINE void load(int64_t chunk, I32* planes) const {
      const int64_t left = bytes - chunk * kChunkBytes;
      const uint8_t* p = first + chunk * kChunkBytes;
      if (left >= kChunkBytes) [[likely]] {
        for (int b = 0; b < kBits; ++b, p += plane_stride) planes[b] = V::load(p);
      } else {
        for (int b = 0; b < kBits; ++b, p += plane_stride)
          planes[b] = V::load_part(p, static_cast<int>(left));
      }
    }
  };

  static Row row(const lowbit_codebook_scalar& weight, int64_t n) {
    const int64_t bytes = (weight.in_features + 7) / 8;
    return {weight.weight + n * bytes, weight.out_features * bytes, bytes};
  }

  static const void* table(const lowbit_codebook_scalar& weight, int64_t n) {
    return static_cast<const uint8_t*>(weight.tables) + (n << kBits) * dtype_size(weight.tables_dtype);
  }

  template <int kRows, int kTokens>
  static void digits_block(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                           int64_t n, int64_t m) {
    typename V::template Digits<kBits> tables[kRows];
    float step[kRows];
    Row rows[kRows];
    for (int r = 0; r < kRows; ++r) {
      step[r] = tables[r].build(table(weight, n + r), weight.tables_dtype);
      rows[r] = row(weight, n + r);
    }
    const int64_t code_stride = x.chunks * kChunkInputs;
    const int64_t scale_stride = x.chunks * V::kLanes;
    const int8_t* codes = x.codes + m * code_stride;
    const float* scales = x.scales + m * scale_stride;
    const F32 radix = V::fset1(1 << V::kDigitBits);

    F32 total[kRows][kTokens];
    for (auto& row_total : total) {
      for (F32& t : row_total) t = V::fset1(0.0f);
    }
    for (int64_t chunk = 0; chunk < x.chunks; ++chunk, codes += kChunkInputs, scales += V::kLanes) {
      for (int r = 0; r < kRows; ++r) {
        I32 planes[kBits];
        rows[r].load(chunk, planes);
        I32 d[kTokens][3];
        for (auto& token : d) {
          for (I32& digit : token) digit = V::set1(0);
        }
        for_each_code<V, kBits>(planes, [&](int j, I32 index) LOWBIT_LAMBDA_INLINE {
          const I32 u[3] = {tables[r].look(0, index), tables[r].look(1, index), tables[r].look(2, index)};
          for (int t = 0; t < kTokens; ++t) {
            const I32 a = V::load(codes + t * code_stride + j * kChunkBytes);
            for (int i = 0; i < 3; ++i) d[t][i] = V::byte_products(d[t][i], u[i], a);
          }
        });
        for (int t = 0; t < kTokens; ++t) {
          // 32 inputs * 2^16 * 127 < 2^31: the two upper digits join before the conversion.
          const I32 upper = V::add(V::template shift_left<V::kDigitBits>(d[t][2]), d[t][1]);
          const F32 value = V::fma(V::to_float(upper), radix, V::to_float(d[t][0]));
          total[r][t] = V::fma(value, V::fload(scales + t * scale_stride), total[r][t]);
        }
      }
    }
    constexpr float kHalf = 1 << (3 * V::kDigitBits - 1);
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) {
        const float centred = V::horizontal_sum(total[r][t]) - kHalf * x.sums[m + t];
        sums.data[(m + t) * sums.stride + n + r] = step[r] * centred;
      }
    }
  }

  template <int kTokens>
  static void floats_block(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                           int64_t n, int64_t m) {
    typename V::template Entries<kBits> entries;
    entries.build(table(weight, n), weight.tables_dtype);
    const Row bits = row(weight, n);
    const int64_t stride = x.chunks * kChunkInputs;
    const float* values = x.values + m * stride;

    // One sum for each byte of a dword: four independent chains hide the latency of the additions.
    F32 total[kTokens][4];
    for (auto& token : total) {
      for (F32& t : token) t = V::fset1(0.0f);
    }
    for (int64_t chunk = 0; chunk < x.chunks; ++chunk, values += kChunkInputs) {
      I32 planes[kBits];
      bits.load(chunk, planes);
      // kShift: where in a dword of codes the code of byte t starts.
      const auto add = [&]<int kByte, int kShift>(int j, I32 codes) LOWBIT_LAMBDA_INLINE {
        const F32 w = entries.template pick<kShift>(codes);
        for (int t = 0; t < kTokens; ++t) {
          const F32 a = V::fload(values + t * stride + (4 * j + kByte) * V::kLanes);
          total[t][kByte] = V::fma(w, a, total[t][kByte]);
        }
      };
      if constexpr (kBits <= 4) {
        I32 pairs[4];
        nibbles<V, kBits>(planes, pairs);
        for (int i = 0; i < 4; ++i) {
          [&]<int... kByte>(std::integer_sequence<int, kByte...>) LOWBIT_LAMBDA_INLINE {
            (add.template operator()<kByte, 8 * kByte>(i, pairs[i]), ...);
            (add.template operator()<kByte, 8 * kByte + 4>(i + 4, pairs[i]), ...);
          }(std::make_integer_sequence<int, 4>());
        }
      } else {
        for_each_code<V, kBits>(planes, [&](int j, I32 codes) LOWBIT_LAMBDA_INLINE {
          [&]<int... kByte>(std::integer_sequence<int, kByte...>) LOWBIT_LAMBDA_INLINE {
            (add.template operator()<kByte, 8 * kByte>(j, codes), ...);
          }(std::make_integer_sequence<int, 4>());
        });
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const F32 all = V::fadd(V::fadd(total[t][0], total[t][1]), V::fadd(total[t][2], total[t][3]));
      sums.data[(m + t) * sums.stride + n] = V::horizontal_sum(all);
    }
  }

  static void digits(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                     int64_t begin, int64_t end) {
    int64_t n = begin;
    if (x.tokens == 1) {
      for (; n + V::kTableRows <= end; n += V::kTableRows)
        digits_block<V::kTableRows, 1>(weight, x, sums, n, 0);
    }
    for (; n < end; ++n) {
      int64_t m = 0;
      for (; m + V::kTableTokens <= x.tokens; m += V::kTableTokens) {
        digits_block<1, V::kTableTokens>(weight, x, sums, n, m);
      }
      for (; m < x.tokens; ++m) digits_block<1, 1>(weight, x, sums, n, m);
    }
  }

  static void floats(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                     int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      int64_t m = 0;
      for (; m + V::kTableTokens <= x.tokens; m += V::kTableTokens)
        floats_block<V::kTableTokens>(weight, x, sums, n, m);
      for (; m < x.tokens; ++m) floats_block<1>(weight, x, sums, n, m);
    }
  }
};

// Picks the kernel for weight.bits; bits above V::kMaxDigitBits are the caller's mistake.
template <class V>
void tables_digits(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                   int64_t begin, int64_t end) {
  [&]<int... kBits>(std::integer_sequence<int, kBits...>) {
    ((weight.bits == kBits + 1 ? TablesKernel<V, kBits + 1>::digits(weight, x, sums, begin, end) : void()),
     ...);
  }(std::make_integer_sequence<int, V::kMaxDigitBits>());
}

template <class V>
void tables_floats(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                   int64_t begin, int64_t end) {
  [&]<int... kBits>(std::integer_sequence<int, kBits...>) {
    ((weight.bits == kBits + 1 ? TablesKernel<V, kBits + 1>::floats(weight, x, sums, begin, end) : void()),
     ...);
  }(std::make_integer_sequence<int, 8>());
}

}  // namespace lowbit::codebook
