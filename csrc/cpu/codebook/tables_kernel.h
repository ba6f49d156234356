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
// sum. Few tokens meet the digits as they are looked up; for many, those of some rows are stored first:
//
//   digits  uint8  [rows][chunks][8 j][3 digits][lanes][4]   beside codes [8 j][lanes][4] of a token
//
// Floats. Look-ups of fp32 entries and one fma per vector of inputs.
//
// A traits class of this kernel extends the instruction set's traits (cpu/isa/inline.h) by
//   kDigitBits, kMaxDigitBits, kTableTokens (that share look-ups), kExpandedBits
//   select(mask, a, b)       bit by bit, a where the mask is 1
//   load_part(p, n)          the first n bytes of a vector, the rest 0
//   Digits<B>                three look-up tables, with build(row, dtype) -> step and look(digit, index)
//   kPairedBits              0, or the B of which an index holds two codes, in the places 0 and 1 of
//                            look(digit, index, place)
//   code_pairs(planes, out)  such indices: those of inputs 2 i and 2 i + 1 in out[i]
//   byte_products(sum, u, x) like dot, but into 32-bit lanes whatever the instruction set
//   Entries<B>               an fp32 table, with build(row, dtype) and pick<shift>(index): entry of bits
//   shift.. horizontal_sum(a)        of the lanes, in one fixed order
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/half.h"
#include "cpu/codebook/codebook.h"
#include "cpu/codebook/codes.h"
#include "cpu/codebook/fixed_point.h"
#include "cpu/codebook/stored_digits.h"

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

  struct DigitTables {
    typename V::template Digits<kBits> digits;
    float step;

    LOWBIT_INLINE void build(const lowbit_codebook_scalar& weight, int64_t n) {
      step = digits.build(table(weight, n), weight.tables_dtype);
    }
  };

  // The digits of one row as they are looked up: for_each(chunk, use) calls use(j, digits).
  struct LookedUp {
    typename V::template Digits<kBits> digits;
    Row bits;

    template <class Use>
    LOWBIT_INLINE void for_each(int64_t chunk, Use use) const {
      I32 planes[kBits];
      bits.load(chunk, planes);
      if constexpr (kBits == V::kPairedBits) {
        I32 pairs[4];
        V::code_pairs(planes, pairs);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
          const I32 index = pairs[j / 2];
          const I32 u[3] = {digits.look(0, index, j % 2), digits.look(1, index, j % 2),
                            digits.look(2, index, j % 2)};
          use(j, u);
        }
      } else {
        for_each_code<V, kBits>(planes, [&](int j, I32 index) LOWBIT_LAMBDA_INLINE {
          const I32 u[3] = {digits.look(0, index), digits.look(1, index), digits.look(2, index)};
          use(j, u);
        });
      }
    }
  };

  template <int kTokens, class Digits>
  static LOWBIT_INLINE void digits_block(const Digits& digits, float step, const ChunkedCodes& x,
                                         const Sums& sums, int64_t column, int64_t m) {
    const int64_t code_stride = x.chunks * kChunkInputs;
    const int64_t scale_stride = x.chunks * V::kLanes;
    const int8_t* codes = x.codes + m * code_stride;
    const float* scales = x.scales + m * scale_stride;
    const F32 radix = V::fset1(1 << V::kDigitBits);

    F32 total[kTokens];
    for (F32& t : total) t = V::fset1(0.0f);
    for (int64_t chunk = 0; chunk < x.chunks; ++chunk, codes += kChunkInputs, scales += V::kLanes) {
      I32 d[kTokens][3];
      for (auto& token : d) {
        for (I32& digit : token) digit = V::set1(0);
      }
      digits.for_each(chunk, [&](int j, const I32* u) LOWBIT_LAMBDA_INLINE {
        for (int t = 0; t < kTokens; ++t) {
          const I32 a = V::load(codes + t * code_stride + j * kChunkBytes);
          for (int i = 0; i < 3; ++i) d[t][i] = V::byte_products(d[t][i], u[i], a);
        }
      });
      for (int t = 0; t < kTokens; ++t) {
        // 32 inputs * 2^16 * 127 < 2^31: the two upper digits join before the conversion.
        const I32 upper = V::add(V::template shift_left<V::kDigitBits>(d[t][2]), d[t][1]);
        const F32 value = V::fma(V::to_float(upper), radix, V::to_float(d[t][0]));
        total[t] = V::fma(value, V::fload(scales + t * scale_stride), total[t]);
      }
    }
    constexpr float kHalf = FixedPoint<V::kDigitBits>::kHalf;
    for (int t = 0; t < kTokens; ++t) {
      sums.data[(m + t) * sums.stride + column] =
          step * (V::horizontal_sum(total[t]) - kHalf * x.sums[m + t]);
    }
  }

  // Each row and token has one chain of additions; the rows of a block run side by side to hide its latency,
  // and share the loads of x.
  template <int kRows, int kTokens>
  static void floats_block(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                           int64_t n, int64_t column, int64_t m) {
    typename V::template Entries<kBits> entries[kRows];
    Row bits[kRows];
    for (int r = 0; r < kRows; ++r) {
      entries[r].build(table(weight, n + r), weight.tables_dtype);
      bits[r] = row(weight, n + r);
    }
    const int64_t stride = x.chunks * kChunkInputs;
    const float* values = x.values + m * stride;

    F32 total[kRows][kTokens];
    for (auto& row_total : total) {
      for (F32& t : row_total) t = V::fset1(0.0f);
    }
    // Vectors of codes per chunk, and how many codes each of their bytes holds.
    constexpr int kVectors = kBits <= 4 ? 4 : 8, kPerByte = 8 / kVectors;
    for (int64_t chunk = 0; chunk < x.chunks; ++chunk, values += kChunkInputs) {
      I32 codes[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) {
        I32 planes[kBits];
        bits[r].load(chunk, planes);
        if constexpr (kBits <= 4) {
          nibbles<V, kBits>(planes, codes[r]);
        } else {
          bytes<V, kBits>(planes, codes[r]);
        }
      }
      // Not unrolled: the codes of all rows are more than the registers hold, so they wait in memory.
#pragma GCC unroll 1
      for (int i = 0; i < kVectors; ++i) {
        const auto add = [&]<int kByte, int kHigh>() LOWBIT_LAMBDA_INLINE {
          F32 a[kTokens];
          for (int t = 0; t < kTokens; ++t) {
            a[t] = V::fload(values + t * stride + (4 * (i + 4 * kHigh) + kByte) * V::kLanes);
          }
          for (int r = 0; r < kRows; ++r) {
            const F32 w = entries[r].template pick<8 * kByte + 4 * kHigh>(codes[r][i]);
            for (int t = 0; t < kTokens; ++t) total[r][t] = V::fma(w, a[t], total[r][t]);
          }
        };
        [&]<int... kPart>(std::integer_sequence<int, kPart...>) LOWBIT_LAMBDA_INLINE {
          (add.template operator()<kPart % 4, kPart / 4>(), ...);
        }(std::make_integer_sequence<int, 4 * kPerByte>());
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) {
        sums.data[(m + t) * sums.stride + column + r] = V::horizontal_sum(total[r][t]);
      }
    }
  }

  // Never inlined, so that profiles can name its loop.
  template <int kTokens>
  static LOWBIT_NOINLINE void digits_rows(const lowbit_codebook_scalar& weight, const ChunkedCodes& x,
                                          const Sums& sums, int64_t begin, int64_t end, int64_t m) {
    // A row's tables, a long chain of dependences, are made beside the products of the row before it.
    DigitTables next;
    next.build(weight, begin);
    for (int64_t n = begin; n < end; ++n) {
      const DigitTables tables = next;
      if (n + 1 < end) next.build(weight, n + 1);
      digits_block<kTokens>(LookedUp{tables.digits, row(weight, n)}, tables.step, x, sums, n - begin, m);
    }
  }

  // Rows [begin, end), kStoredRows at most, for all tokens but the last few that fill no block.
  template <int kTokens>
  static LOWBIT_NOINLINE int64_t stored_rows(const lowbit_codebook_scalar& weight, const ChunkedCodes& x,
                                             const Sums& sums, int64_t begin, int64_t end) {
    const int64_t row_bytes = 3 * x.chunks * kChunkInputs;
    float steps[kStoredRows];
    for (int64_t n = begin; n < end; ++n) {
      DigitTables tables;
      tables.build(weight, n);
      steps[n - begin] = tables.step;
      const LookedUp row_digits{tables.digits, row(weight, n)};
      uint8_t* to = x.stored_digits + (n - begin) * row_bytes;
      for (int64_t chunk = 0; chunk < x.chunks; ++chunk, to += 3 * kChunkInputs) {
        row_digits.for_each(chunk, [&](int j, const I32* u) LOWBIT_LAMBDA_INLINE {
          for (int i = 0; i < 3; ++i) V::store(to + (3 * j + i) * kChunkBytes, u[i]);
        });
      }
    }
    // A block's codes stay in the first level cache, the digits come from the second.
    int64_t m = 0;
    for (; m + kTokens <= x.tokens; m += kTokens) {
      for (int64_t r = 0; r < end - begin; ++r) {
        digits_block<kTokens>(StoredDigits<V>{x.stored_digits + r * row_bytes}, steps[r], x, sums, r, m);
      }
    }
    return m;
  }

  static void digits(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                     int64_t begin, int64_t end) {
    int64_t m = 0;
    if (x.stored_digits != nullptr) {
      for (int64_t n = begin; n < end; n += kStoredRows) {
        const Sums from{sums.data + n - begin, sums.stride};
        m = stored_rows<V::kTableTokens>(weight, x, from, n, std::min(n + kStoredRows, end));
      }
    }
    for (; m + V::kTableTokens <= x.tokens; m += V::kTableTokens) {
      digits_rows<V::kTableTokens>(weight, x, sums, begin, end, m);
    }
    for (; m < x.tokens; ++m) digits_rows<1>(weight, x, sums, begin, end, m);
  }

  template <int kRows>
  static void floats_rows(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                          int64_t n, int64_t column) {
    int64_t m = 0;
    for (; m + V::kTableTokens <= x.tokens; m += V::kTableTokens) {
      floats_block<kRows, V::kTableTokens>(weight, x, sums, n, column, m);
    }
    for (; m < x.tokens; ++m) floats_block<kRows, 1>(weight, x, sums, n, column, m);
  }

  static void floats(const lowbit_codebook_scalar& weight, const ChunkedValues& x, const Sums& sums,
                     int64_t begin, int64_t end) {
    int64_t n = begin;
    for (; n + 4 <= end; n += 4) floats_rows<4>(weight, x, sums, n, n - begin);
    for (; n < end; ++n) floats_rows<1>(weight, x, sums, n, n - begin);
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
