// Tile registers: AMX with products of bytes and of bf16, on top of AVX-512.
//
// A tile has up to 16 rows of 64 bytes. One instruction multiplies 16 x 64 signed bytes, four neighbours at a
// time, with 16 x 16 groups of four unsigned bytes:
//
//   sums [16 columns][16 rows] int32 += codes [16 columns][64] * weights [16 steps][16 rows][4]
//
// or 16 x 32 numbers in bf16, two neighbours at a time, with 16 x 16 pairs, whose 32 products are summed in
// fp32 before they join the sums.
#pragma once

#include <cstdint>

#include "cpu/isa/avx512.h"

namespace lowbit::isa {

// Eight tiles while it lives: 0 to 3 of sums and 4 and 5 of codes, of `columns` rows, and 6 and 7 of weights.
// In the end the thread has the shapes it came with, which a host may have set once for all, or gives the
// tiles back: what saves registers saves 8 KB more as long as they are in use.
class Tiles {
 public:
  static constexpr int kRows = 16;
  static constexpr int kBytes = 64;  // of a row

  explicit Tiles(int columns) {
    asm volatile("sttilecfg %0" : "=m"(before_));
    Config config{};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kBytes;
      config.rows[i] = static_cast<uint8_t>(i < 6 ? columns : kRows);
    }
    configure(config);
  }
  ~Tiles() { before_.palette != 0 ? configure(before_) : _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // Assembly, because the compilers' own operations take numbers but no constant expressions.
  template <int kTile>
  static LOWBIT_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // 16 rows of 64 bytes, `stride` bytes apart.
  template <int kTile>
  static LOWBIT_INLINE void load(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%1, %2), %%tmm%c0" ::"i"(kTile), "r"(rows), "r"(stride) : "memory");
  }
  template <int kTile>
  static LOWBIT_INLINE void store(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1, %2)" ::"i"(kTile), "r"(rows), "r"(stride) : "memory");
  }
  // kSums += kCodes * kWeights, of signed codes and signed or unsigned weights.
  template <int kSums, int kCodes, int kWeights, bool kSigned>
  static LOWBIT_INLINE void multiply() {
    if constexpr (kSigned) {
      asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kCodes), "i"(kWeights));
    } else {
      asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kCodes), "i"(kWeights));
    }
  }

  // fp32 kSums += kRows * kPairs, both bf16.
  template <int kSums, int kRows, int kPairs>
  static LOWBIT_INLINE void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kPairs));
  }

 private:
  struct alignas(64) Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };

  // Assembly as well: the operation of GCC 12 does not say that it reads all of the 64 bytes.
  static void configure(const Config& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

  Config before_;
};

}  // namespace lowbit::isa
