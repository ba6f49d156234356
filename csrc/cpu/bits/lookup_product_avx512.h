// The product of one plane by table look-up, AVX-512 with VBMI and VNNI.
//
// Four bits of a byte select one of 16 sums of four activations; vpermb finds 64 of them in one instruction,
// where a masked byte product multiplies 64 single bits. Its 64 bytes of table serve the four byte positions
// of a dword, and a dword is cut into two nibbles per byte that need as little shifting as possible:
//
//   bits of a dword    31 30 | 29 28 27 26 | 25 24 23 22 | 21 .. 18 | 17 .. 14 | 13 .. 10 | 9 .. 6 | 5 4 3 2
//   | 1 0 half 0             w itself:  bits 2..5 of byte c            inputs 8 c + 2 .. 8 c + 5 half 1 w
//   rotated left by 4: bits 2..5 of byte c  inputs 8 c - 2 .. 8 c + 1 (of 32, cyclic)
//
//   index byte c       0 0 n3 n2 n1 n0 c1 c0                     n = the nibble
//   table byte 4 n + c a digit of  S = 512 + sum of the activation codes whose bit is set in n
//
// S has 10 bits and is kept as two digits of 5: S = low + 32 high. Eight look-ups, a run of 128 inputs, add
// up in unsigned bytes (8 * 31 < 256); a byte product by constants then adds the four bytes of a row.
//
// A table holds 8 times the codes it is made of and pays where several tiles and columns share the work
// (bits_avx512.cpp says when). A stretch of inputs, as much as the stack holds of tables, meets up to
// kGroupTiles tiles before the next stretch.
#pragma once

#include <cstdint>

#include "cpu/bits/product.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

// The tables of one column for one block: two halves of two digits.
struct LookupTables {
  static constexpr int64_t kVectorBytes = 64;
  static constexpr int64_t kBlockBytes = 4 * kVectorBytes;
  static constexpr int32_t kBias = 512;
  static constexpr int32_t kBiasOfBlock = 8 * kBias;  // eight nibbles

  // codes: a block of Columns, [8 j][4 c].
  static LOWBIT_INLINE void build(const int8_t* codes, uint8_t* tables) {
    alignas(32) int32_t nibbles[2][4];  // [half][c]: the four codes of a nibble
    const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kOrder.bytes));
    _mm256_store_si256(reinterpret_cast<__m256i*>(nibbles), _mm256_permutexvar_epi8(order, block));
    const __m512i selected = _mm512_load_si512(kSelected.bytes);
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), digit = _mm512_set1_epi32(0x1f1f1f1f);
    for (int half = 0; half < 2; ++half, tables += 2 * kVectorBytes) {
      __m512i sum[4];
      for (int c = 0; c < 4; ++c) {
        sum[c] = _mm512_dpbusd_epi32(_mm512_set1_epi32(kBias), selected, _mm512_set1_epi32(nibbles[half][c]));
      }
      // Two sums side by side, in 16 bits each: bytes 0 and 2, bytes 1 and 3 of the table's dwords.
      const __m512i sum02 = _mm512_or_si512(sum[0], _mm512_slli_epi32(sum[2], 16));
      const __m512i sum13 = _mm512_or_si512(sum[1], _mm512_slli_epi32(sum[3], 16));
      const __m512i low = select(even, sum02, _mm512_slli_epi32(sum13, 8));
      const __m512i high = select(even, _mm512_srli_epi32(sum02, 5), _mm512_slli_epi32(sum13, 3));
      _mm512_store_si512(tables, _mm512_and_si512(low, digit));
      _mm512_store_si512(tables + kVectorBytes, _mm512_and_si512(high, digit));
    }
  }

  template <int kHalf>
  static LOWBIT_INLINE __m512i index(__m512i w) {
    const __m512i nibble = _mm512_set1_epi32(0x3c3c3c3c), byte = _mm512_set1_epi32(0x03020100);
    return _mm512_ternarylogic_epi32(kHalf == 0 ? w : _mm512_rol_epi32(w, 4), nibble, byte, 0xea);  // & |
  }

 private:
  template <int kSize>
  struct Bytes {
    alignas(kSize) uint8_t bytes[kSize];
  };

  static LOWBIT_INLINE __m512i select(__m512i mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
  }

  // Byte 16 half + 4 c + i: where a block of codes has input i of the nibble.
  static constexpr Bytes<32> order() {
    Bytes<32> result{};
    for (int half = 0; half < 2; ++half) {
      for (int c = 0; c < 4; ++c) {
        for (int i = 0; i < 4; ++i) {
          const int input = (8 * c + 2 + i - 4 * half + 32) % 32;
          result.bytes[16 * half + 4 * c + i] = static_cast<uint8_t>(4 * (input % 8) + input / 8);
        }
      }
    }
    return result;
  }
  // Byte i of dword n: bit i of n.
  static constexpr Bytes<64> selected() {
    Bytes<64> result{};
    for (int n = 0; n < 16; ++n) {
      for (int i = 0; i < 4; ++i) result.bytes[4 * n + i] = static_cast<uint8_t>(n >> i & 1);
    }
    return result;
  }
  static const Bytes<32> kOrder;
  static const Bytes<64> kSelected;
};

constexpr LookupTables::Bytes<32> LookupTables::kOrder = order();
constexpr LookupTables::Bytes<64> LookupTables::kSelected = selected();

class LookupProduct : Product<isa::Avx512, 1> {
 public:
  using Product::Product;

  // Tiles [begin, end) for all tokens.
  void tiles(int64_t begin, int64_t end) const {
    for (int64_t tile = begin; tile < end; tile += kGroupTiles) {
      const int64_t count = smaller(kGroupTiles, end - tile);
      int64_t token = 0;
      if (x_.per_token == 2) {
        for (; token < x_.tokens; ++token) group<1, 2>(tile, count, token);
      } else {
        for (; token + 2 <= x_.tokens; token += 2) group<2, 1>(tile, count, token);
        if (token < x_.tokens) group<1, 1>(tile, count, token);
      }
    }
  }

 private:
  using Isa = isa::Avx512;
  using I32 = Isa::I32;

  static constexpr int64_t kGroupTiles = 32;
  static constexpr int64_t kStretchBytes = 64 << 10;  // of tables
  static constexpr int64_t kSumBlocks = 4;            // whose look-ups add up in bytes
  static constexpr int kRows = kTileRows / Isa::kLanes;

  template <int kColumns>
  struct State {
    alignas(64) uint8_t tables[kStretchBytes];  // [blocks][columns][LookupTables]
    float acc[kGroupTiles][kColumns][kTileRows];
    int32_t partial[kGroupTiles][kColumns][kTileRows];  // of a run that goes on in the next stretch
  };

  template <int kTokens, int kPerToken>
  LOWBIT_NOINLINE void group(int64_t first_tile, int64_t count, int64_t first_token) const {
    constexpr int kColumns = kTokens * kPerToken;
    constexpr int64_t kStretch = kStretchBytes / (kColumns * LookupTables::kBlockBytes);
    State<kColumns> state;
    for (int64_t tile = 0; tile < count; ++tile) {
      for (auto& token : state.acc[tile]) {
        for (float& value : token) value = 0.0f;
      }
    }
    const int8_t* const codes = x_.codes + first_token * kPerToken * column_stride_;
    Runs run = runs_;
    for (int64_t begin = 0; begin < x_.k_blocks; begin += kStretch) {
      const int64_t end = smaller(begin + kStretch, x_.k_blocks);
      uint8_t* tables = state.tables;
      for (int64_t block = begin; block < end; ++block) {
        for (int c = 0; c < kColumns; ++c, tables += LookupTables::kBlockBytes) {
          LookupTables::build(codes + c * column_stride_ + block * kBlockInputs, tables);
        }
      }
      for (int64_t tile = 0; tile < count; ++tile) {
        // Fetched ahead: what follows in memory or, in stretches, the same inputs of the next tile or the
        // next inputs of the first.
        const int64_t next = tile + 1 < count ? first_tile + tile + 1 : first_tile;
        const int64_t ahead = end - begin == x_.k_blocks
                                  ? 4096
                                  : tile_bits(next) - tile_bits(first_tile + tile) +
                                        (tile + 1 < count ? 0 : (end - begin) * kBlockBytes);
        stretch<kTokens, kPerToken>(first_tile + tile, first_token, run, begin, end, ahead, state.tables,
                                    state.acc[tile], state.partial[tile]);
      }
      while (!run.done() && run.end() <= end) run.next();
    }
    for (int64_t tile = 0; tile < count; ++tile) {
      const TileScales scales(*this, first_tile + tile);
      for (int t = 0; t < kTokens; ++t)
        finish(first_tile + tile, first_token + t, scales, state.acc[tile][t]);
    }
  }

  // Blocks [begin, end) of one tile; `run` is the run that `begin` lies in.
  template <int kTokens, int kPerToken, int kColumns>
  LOWBIT_INLINE void stretch(int64_t tile, int64_t first_token, Runs run, int64_t begin, int64_t end,
                             int64_t ahead, const uint8_t* tables, float (&acc)[kColumns][kTileRows],
                             int32_t (&partial)[kColumns][kTileRows]) const {
    const TileScales scales(*this, tile);
    const uint8_t* bits = tile_bits(tile) + begin * kBlockBytes;
    const int32_t* const block_sums = x_.sums + first_token * kPerToken * x_.k_blocks;
    const float* const x_scales = x_.scales + first_token * x_groups_;
    for (int64_t block = begin; block < end; run.next()) {
      const int64_t blocks = smaller(run.end(), end) - block;
      int32_t x_sums[kColumns];
      I32 total[kRows][kColumns];
      for (int c = 0; c < kColumns; ++c) {
        x_sums[c] = sum_activations(block_sums + c * x_.k_blocks, run);
        const auto length = static_cast<int32_t>(run.end() - run.begin());
        const I32 start = Isa::set1(-x_sums[c] - 2 * LookupTables::kBiasOfBlock * length);
        for (int r = 0; r < kRows; ++r) {
          total[r][c] = block == run.begin() ? start : Isa::load(partial[c] + r * Isa::kLanes);
        }
      }
      for (int64_t done = 0; done < blocks; done += kSumBlocks) {
        const int64_t count = smaller(kSumBlocks, blocks - done);
        add_blocks(bits, ahead, tables, count, total);
        bits += count * kBlockBytes;
        tables += count * kColumns * LookupTables::kBlockBytes;
      }
      block += blocks;
      if (block == run.end()) {
        const RunEnd<Isa> run_end = scales.end_of(run);
        for (int t = 0; t < kTokens; ++t) {
          for (int r = 0; r < kRows; ++r) {
            run_end.template add<kPerToken>(total[r] + t * kPerToken, x_sums + t * kPerToken,
                                            x_scales[t * x_groups_ + run.x_index()], r * Isa::kLanes, acc[t]);
          }
        }
      } else {
        for (int c = 0; c < kColumns; ++c) {
          for (int r = 0; r < kRows; ++r) Isa::store(partial[c] + r * Isa::kLanes, total[r][c]);
        }
      }
    }
  }

  // total += 2 * sum over up to kSumBlocks blocks of S.
  template <int kColumns>
  static LOWBIT_INLINE void add_blocks(const uint8_t* bits, int64_t ahead, const uint8_t* tables,
                                       int64_t blocks, I32 (&total)[kRows][kColumns]) {
    I32 low[kRows][kColumns], high[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) low[r][c] = high[r][c] = _mm512_setzero_si512();
    }
    for (int64_t block = 0; block < blocks; ++block) {
      I32 w[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        __builtin_prefetch(bits + r * Isa::kLanes * 4 + ahead);
        w[r] = Isa::load(bits + r * Isa::kLanes * 4);
      }
      add_half<0>(w, tables, low, high);
      add_half<1>(w, tables, low, high);
      bits += kBlockBytes;
      tables += kColumns * LookupTables::kBlockBytes;
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) {
        total[r][c] = _mm512_dpbusd_epi32(total[r][c], low[r][c], Isa::set1(0x02020202));
        total[r][c] = _mm512_dpbusd_epi32(total[r][c], high[r][c], Isa::set1(0x40404040));
      }
    }
  }

  template <int kHalf, int kColumns>
  static LOWBIT_INLINE void add_half(const I32 (&w)[kRows], const uint8_t* tables,
                                     I32 (&low)[kRows][kColumns], I32 (&high)[kRows][kColumns]) {
    I32 index[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) index[r] = LookupTables::index<kHalf>(w[r]);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      const uint8_t* const table =
          tables + c * LookupTables::kBlockBytes + kHalf * 2 * LookupTables::kVectorBytes;
      add_digit(index, Isa::load(table), c, low);
      add_digit(index, Isa::load(table + LookupTables::kVectorBytes), c, high);
    }
  }

  template <int kColumns>
  static LOWBIT_INLINE void add_digit(const I32 (&index)[kRows], I32 table, int column,
                                      I32 (&sums)[kRows][kColumns]) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sums[r][column] = _mm512_add_epi8(sums[r][column], _mm512_permutexvar_epi8(index[r], table));
      LOWBIT_KEEP(sums[r][column]);
    }
  }
};

}  // namespace
}  // namespace lowbit
