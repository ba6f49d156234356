// 16 lanes, AVX-512 with VNNI and VBMI: a chunk is 512 inputs.
#include "core/half.h"
#include "cpu/codebook/kernel_table.h"
#include "cpu/codebook/quads_avx512.h"
#include "cpu/codebook/vector_digits_avx512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

struct Vectors : isa::Avx512 {
  static constexpr int kDigitBits = 8;
  static constexpr int kMaxDigitBits = 8;
  static constexpr int kTableTokens = 4;
  static constexpr int kPairedBits = 3;
  static constexpr int kExpandedBits = 6;  // 54 G/s at 4 bits, 52 at 5; expanded 59

  static LOWBIT_INLINE I32 select(I32 mask, I32 a, I32 b) {
    return _mm512_ternarylogic_epi32(a, mask, b, 0xe2);  // overwrites a, which callers make for this
  }

  // Two codes of three bits in the six that vpermb reads of a byte:
  //
  //   planes a b c (a most significant)    a7 .. a0, b7 .. b0, c7 .. c0
  //   out[i]                               . . a a b b c c, of inputs 2 i + 1 and 2 i each
  static LOWBIT_INLINE void code_pairs(const I32* planes, I32* out) {
    const I32 fours = select(set1(static_cast<int32_t>(0xcccccccc)), shift_left<2>(planes[1]), planes[2]);
    const I32 others = select(set1(0x33333333), shift_right_logical<2>(planes[2]), planes[1]);
    const I32 place_of_a = set1(0x30303030);
    out[0] = select(place_of_a, shift_left<4>(planes[0]), fours);
    out[2] = select(set1(0x0f0f0f0f), shift_right_logical<4>(fours), planes[0]);
    // What two rotations move into the next byte, two more bring back: a7 and a6 go through its lowest bits.
    const I32 rotated = _mm512_rol_epi32(planes[0], 2);
    out[3] = _mm512_ror_epi32(select(set1(0x03030303), rotated, others), 4);
    out[1] = select(place_of_a, rotated, others);
  }

  static LOWBIT_INLINE I32 load_part(const void* p, int bytes) {
    return _mm512_maskz_loadu_epi8((uint64_t{1} << bytes) - 1, p);
  }

  // Up to 16 floats, the rest 0.
  static LOWBIT_INLINE F32 load_entries(const void* row, lowbit_dtype dtype, int first, int count) {
    const auto lanes = static_cast<__mmask16>((1u << count) - 1);
    if (dtype == LOWBIT_F32) return _mm512_maskz_loadu_ps(lanes, static_cast<const float*>(row) + first);
    const __m256i half = _mm256_maskz_loadu_epi16(lanes, static_cast<const uint16_t*>(row) + first);
    if (dtype == LOWBIT_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  // Up to 64 entries: one vpermb, which ignores what an index byte holds above 6 bits; 128: vpermi2b; 256:
  // two of them and a choice.
  template <int kBits>
  struct Digits {
    static constexpr int kEntries = 1 << kBits;
    static constexpr int kVectors = kEntries <= 16 ? 1 : kEntries / 16;
    static constexpr int kTables = kEntries <= 64 ? 1 : kEntries / 64;
    static constexpr int kPlaces = kBits == kPairedBits ? 2 : 1;  // of a code in an index byte
    I32 table[kPlaces][3][kTables];  // byte e: digit of the entry whose code the index e holds in this place

    LOWBIT_INLINE float build(const void* row, lowbit_dtype dtype) {
      F32 values[kVectors];
      F32 largest = _mm512_setzero_ps();
      for (int i = 0; i < kVectors; ++i) {
        values[i] = load_entries(row, dtype, 16 * i, kEntries < 16 ? kEntries : 16);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(values[i]));
      }
      const codebook::FixedPoint<kDigitBits> scale(_mm512_reduce_max_ps(largest));
      I32 codes[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        codes[i] = add(to_int(fmul(values[i], fset1(scale.inverse))), set1(scale.kHalf));
      }
      for (int d = 0; d < 3; ++d) {
        if constexpr (kVectors == 1) {
          static constexpr Pattern kPick[2] = {pattern(0), pattern(1)};
          for (int place = 0; place < kPlaces; ++place) {
            table[place][d][0] =
                _mm512_permutexvar_epi8(add(load(kPick[place].bytes), set1(0x01010101 * d)), codes[0]);
          }
        } else {
          alignas(64) uint8_t bytes[64 * kTables];
          for (int i = 0; i < 4 * kTables; ++i) {
            const __m128i digits = _mm512_cvtepi32_epi8(_mm512_srli_epi32(codes[i % kVectors], 8 * d));
            _mm_store_si128(reinterpret_cast<__m128i*>(bytes + 16 * i), digits);
          }
          for (int i = 0; i < kTables; ++i) table[0][d][i] = load(bytes + 64 * i);
        }
      }
      return scale.step;
    }
    LOWBIT_INLINE I32 look(int digit, I32 index, int place = 0) const {
      const I32* const t = table[place][digit];
      if constexpr (kTables == 1) {
        return _mm512_permutexvar_epi8(index, t[0]);
      } else if constexpr (kTables == 2) {
        return _mm512_permutex2var_epi8(t[0], index, t[1]);
      } else {
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(t[0], index, t[1]),
                                      _mm512_permutex2var_epi8(t[2], index, t[3]));
      }
    }

   private:
    struct Pattern {
      alignas(64) uint8_t bytes[64];
    };
    // For all 64 indices: byte 0 of the dword of their code.
    static constexpr Pattern pattern(int place) {
      Pattern result{};
      for (int e = 0; e < 64; ++e) {
        const int pair = e >> place;  // bits 0, 2 and 4
        const int code = kPlaces == 2 ? (pair & 1) | (pair >> 1 & 2) | (pair >> 2 & 4) : e % kEntries;
        result.bytes[e] = static_cast<uint8_t>(4 * code);
      }
      return result;
    }
  };

  static LOWBIT_INLINE I32 byte_products(I32 sum, I32 u, I32 x) { return dot(sum, u, x); }

  // Up to 16 entries: one vpermps, which ignores what an index holds above 4 bits; 32: vpermi2ps; then a tree
  // of choices over these (gathers take twice the time).
  template <int kBits>
  struct Entries {
    static constexpr int kEntries = 1 << kBits;
    static constexpr int kVectors = kEntries <= 16 ? 1 : kEntries / 16;
    alignas(64) float values[kEntries < 16 ? 16 : kEntries];

    LOWBIT_INLINE void build(const void* row, lowbit_dtype dtype) {
      for (int i = 0; i < kVectors; ++i) {
        F32 part = load_entries(row, dtype, 16 * i, kEntries < 16 ? kEntries : 16);
        if constexpr (kEntries < 16) {
          const I32 lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
          part = _mm512_permutexvar_ps(bit_and(lane, set1(kEntries - 1)), part);
        }
        _mm512_store_ps(values + 16 * i, part);
      }
    }
    template <int kShift>
    LOWBIT_INLINE F32 pick(I32 index) const {
      const I32 code = kShift == 0 ? index : shift_right_logical<kShift>(index);
      if constexpr (kBits <= 4) {
        return _mm512_permutexvar_ps(code, fload(values));
      } else {
        return choose<kBits>(code, values);
      }
    }

   private:
    template <int kDepth>
    static LOWBIT_INLINE F32 choose(I32 code, const float* from) {
      if constexpr (kDepth <= 5) {
        return _mm512_permutex2var_ps(fload(from), code, fload(from + 16));
      } else {
        constexpr int kHalf = 1 << (kDepth - 1);
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(code, set1(kHalf)), choose<kDepth - 1>(code, from),
                                    choose<kDepth - 1>(code, from + kHalf));
      }
    }
  };
};

constexpr int32_t kQuadLanes = 4;

// One row at a time, in chunks of 512 inputs, or four with 128 inputs of each. In us, 512 rows of 3 bits on
// one Zen 4 core:
//
//   inputs                 256    384    640    768   1024   1152   1536   2048
//   one row, 1 token      11.2   11.2   18.7   18.7   17.9   24.8   24.3   31.0
//   four rows              9.1   11.6   16.6   19.1   24.0   26.5   33.9   43.9
//   one row, 4 tokens     24.7   30.0   42.8   42.8   41.4   59.2   57.6   74.0
//   four rows             15.3   20.4   30.5   35.5   45.5   50.4   65.4   85.7
int32_t digit_lanes(int64_t in_features, int32_t bits) {
  if (bits > 4) return Vectors::kLanes;
  const int64_t chunks = (in_features + 511) / 512, groups = (in_features + 127) / 128;
  return groups <= 3 * chunks ? kQuadLanes : Vectors::kLanes;
}

void tables_digits(const lowbit_codebook_scalar& weight, const ChunkedCodes& x, const Sums& sums,
                   int64_t begin, int64_t end) {
  if (x.lanes != kQuadLanes) return codebook::tables_digits<Vectors>(weight, x, sums, begin, end);
  switch (weight.bits) {
    case 1:
      return codebook::Quads<Vectors, 1>::digits(weight, x, sums, begin, end);
    case 2:
      return codebook::Quads<Vectors, 2>::digits(weight, x, sums, begin, end);
    case 3:
      return codebook::Quads<Vectors, 3>::digits(weight, x, sums, begin, end);
    default:
      return codebook::Quads<Vectors, 4>::digits(weight, x, sums, begin, end);
  }
}

constexpr CodebookKernels kernel_table() {
  CodebookKernels table = codebook::kernel_table<Vectors>();
  table.digit_lanes = digit_lanes;
  table.tables_digits = tables_digits;
  table.vector_digit_tables = codebook::VectorDigits<Vectors>::tables;
  table.vector_digit_sums = codebook::VectorDigits<Vectors>::sums;
  table.vector_integer_products = codebook::vector_integer_products<Vectors>;
  table.vector_integer_sums = codebook::vector_integer_sums<Vectors>;
  return table;
}

}  // namespace

extern const CodebookKernels codebook_kernels_avx512 = kernel_table();

}  // namespace lowbit
