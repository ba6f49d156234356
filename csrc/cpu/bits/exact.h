// The fp32 product, precision `exact`.
//
// Four inputs have 16 sums of +-x, kept in a table; four bits of a row are the index of its sum. One look-up
// and one addition serve four weights, and no activation is rounded. Tables are built once for a group of
// tiles.
//
//   table[n] = (+-x0 +-x1) + (+-x2 +-x3), the sign of x_i plus where bit i of n is set
//
// Order of additions, the same for every instruction set: within a run of at most 128 inputs the even and the
// odd tables are summed apart, ascending, and then together; planes by Horner's rule, most significant first;
// runs ascending.
#pragma once

#include <cstdint>

#include "cpu/bits/bits.h"
#include "cpu/bits/epilogue.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

template <class Isa>
class ExactProduct {
 public:
  // Tiles computed together. Eight of them hide what the tables cost.
  static constexpr int64_t kGroupTiles = 8;

  ExactProduct(const lowbit_bits& weight, int active_planes, const FloatColumns& x, const Epilogue& epilogue)
      : weight_(weight),
        x_(x),
        epilogue_(epilogue),
        active_planes_(active_planes),
        runs_(x.k_blocks, kRunBlocks, weight_group_blocks(weight), kRunBlocks),
        groups_(weight_groups(weight)),
        plane_stride_(x.k_blocks * kBlockBytes) {}

  void tiles(int64_t first_tile, int64_t tiles) const {
    for (int64_t token = 0; token < x_.tokens; ++token) {
      const float* values = x_.values + token * x_.k_blocks * kBlockInputs;
      float acc[kGroupTiles][kTileRows];
      for (int64_t tile = 0; tile < tiles; ++tile) {
        for (int64_t row = 0; row < kTileRows; ++row) acc[tile][row] = 0.0f;
      }
      alignas(64) float tables[kChunkBlocks * 8 * 16];
      for (Runs chunk = runs_; !chunk.done();) {
        const int64_t end = smaller(chunk.begin() + kChunkBlocks, x_.k_blocks);
        build_tables(values + chunk.begin() * kBlockInputs, end - chunk.begin(), tables);
        Runs next = chunk;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          next = add_chunk(first_tile + tile, chunk, end, tables, acc[tile]);
        }
        chunk = next;
      }
      for (int64_t tile = 0; tile < tiles; ++tile) finish(first_tile + tile, token, acc[tile]);
    }
  }

 private:
  using F32 = typename Isa::F32;

  static constexpr int64_t kRunBlocks = 4;
  static constexpr int64_t kChunkBlocks = 16;           // a multiple of a run: 8 KiB of tables
  static constexpr int kRows = Isa::kAccumulators / 4;  // row vectors per pass, two sums each

  static LOWBIT_INLINE void build_tables(const float* values, int64_t blocks, float* tables) {
    for (int64_t table = 0; table < blocks * 8; ++table) {
      const float* x = values + 4 * table;
      const float low[4] = {-x[0] - x[1], x[0] - x[1], -x[0] + x[1], x[0] + x[1]};
      const float high[4] = {-x[2] - x[3], x[2] - x[3], -x[2] + x[3], x[2] + x[3]};
      float* out = tables + 16 * table;
      for (int h = 0; h < 4; ++h) {
        for (int l = 0; l < 4; ++l) out[4 * h + l] = low[l] + high[h];
      }
    }
  }

  // The runs up to block `end`, which is the end of one. Returns the first run after them.
  LOWBIT_INLINE Runs add_chunk(int64_t tile, Runs run, int64_t end, const float* tables, float* acc) const {
    const uint8_t* bits = weight_.tiles + tile * weight_.planes * plane_stride_;
    for (; run.begin() < end; run.next()) {
      const int64_t blocks = run.end() - run.begin();
      const int64_t group = (tile * groups_ + run.w_index()) * kTileRows;
      float x_sum = 0.0f;
      if (weight_.offsets != nullptr) {
        for (int64_t table = 0; table < 8 * blocks; ++table) x_sum += tables[16 * table + 15];
      }
      for (int64_t row = 0; row < kTileRows; row += kRows * Isa::kLanes) {
        add_run(bits + run.begin() * kBlockBytes + row * 4, blocks, tables, x_sum, group + row, acc + row);
      }
      tables += 8 * 16 * blocks;
    }
    return run;
  }

  // One run of kRows row vectors. `group` is the index of the first row's scale and offset.
  LOWBIT_INLINE void add_run(const uint8_t* bits, int64_t blocks, const float* tables, float x_sum,
                             int64_t group, float* acc) const {
    F32 value[kRows];
    add_plane(bits, blocks, tables, value);
    for (int plane = 1; plane < active_planes_; ++plane) {
      F32 next[kRows];
      add_plane(bits + plane * plane_stride_, blocks, tables, next);
      for (int row = 0; row < kRows; ++row) value[row] = Isa::fma(Isa::fset1(2.0f), value[row], next[row]);
    }
    const F32 inactive = Isa::fset1(static_cast<float>(1 << (weight_.planes - active_planes_)));
    for (int row = 0; row < kRows; ++row) {
      const int64_t lane = row * Isa::kLanes;
      F32 v = Isa::fmul(value[row], inactive);
      if (weight_.offsets != nullptr) {
        const F32 offset = Isa::to_float(Isa::widen_i16(weight_.offsets + group + lane));
        v = Isa::fma(offset, Isa::fset1(x_sum), v);
      }
      F32 sum = Isa::fload(acc + lane);
      if (weight_.scales != nullptr && groups_ > 1) {
        sum = Isa::fma(v, load_floats<Isa>(weight_.scales, weight_.scales_dtype, group + lane), sum);
      } else {
        sum = Isa::fadd(sum, v);
      }
      Isa::fstore(acc + lane, sum);
    }
  }

  static LOWBIT_INLINE void add_plane(const uint8_t* bits, int64_t blocks, const float* tables, F32* sums) {
    F32 even[kRows], odd[kRows];
    for (int row = 0; row < kRows; ++row) even[row] = odd[row] = Isa::fset1(0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      typename Isa::I32 w[kRows];
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        const uint8_t* p = bits + row * Isa::kLanes * 4;
        if constexpr (Isa::kLanes >= 8) __builtin_prefetch(p + 4096);
        w[row] = Isa::load(p);
      }
      add_pair<0>(w, tables, even, odd);
      add_pair<8>(w, tables + 32, even, odd);
      add_pair<16>(w, tables + 64, even, odd);
      add_pair<24>(w, tables + 96, even, odd);
      bits += kBlockBytes;
      tables += 8 * 16;
    }
    for (int row = 0; row < kRows; ++row) sums[row] = Isa::fadd(even[row], odd[row]);
  }

  // Bits kShift .. kShift + 7: two tables.
  template <int kShift>
  static LOWBIT_INLINE void add_pair(const typename Isa::I32 (&w)[kRows], const float* tables, F32* even,
                                     F32* odd) {
    const auto first = Isa::load_table(tables);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      even[row] = Isa::fadd(even[row], Isa::template lookup<kShift>(first, w[row]));
    }
    const auto second = Isa::load_table(tables + 16);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      odd[row] = Isa::fadd(odd[row], Isa::template lookup<kShift + 4>(second, w[row]));
    }
  }

  LOWBIT_INLINE void finish(int64_t tile, int64_t token, float* acc) const {
    const int64_t first_row = tile * kTileRows;
    const int64_t rows = smaller(kTileRows, weight_.out_features - first_row);
    float row_scales[kTileRows];
    const bool row_scaled = weight_.scales != nullptr && groups_ == 1;
    if (row_scaled) load_rows<Isa>(weight_.scales, weight_.scales_dtype, first_row, row_scales);
    finish_rows<Isa>(epilogue_, token, first_row, rows, row_scaled ? row_scales : nullptr, acc);
  }

  const lowbit_bits& weight_;
  const FloatColumns& x_;
  const Epilogue& epilogue_;
  const int active_planes_;
  const Runs runs_;
  const int64_t groups_;
  const int64_t plane_stride_;
};

}  // namespace
}  // namespace lowbit
