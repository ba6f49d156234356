// The product of one plane by table look-up: a few bits select one of the sums of so many activations.
//
// A `Lookup` says how an instruction set does that:
//
//   Isa               its traits
//   kTableBytes       tables of one column for one block of 32 inputs
//   kStretchBytes     of tables that meet all tiles before the next inputs
//   kBias             every sum found is that much too large
//   build             makes these tables
//   kColumns          that share what a weight selects with; 1: those whose tables exist
//   kRows             row vectors that go through a run together
//   add_blocks        adds twice the sums that up to kSumBlocks blocks find for them to what `before` gives,
//                     which is asked last: until then all registers are the sums'. The totals of token after
//                     token go to `end`
//
// Tables hold 8 or 16 times the codes they are made of. Those of a single column are made once for all tiles
// (build_tables). Of several columns a stretch of inputs meets up to kGroupTiles tiles before the next one.
#pragma once

#include <cstdint>

#include "cpu/bits/product.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

constexpr int64_t kSumBlocks = 4;  // whose sums fit where a Lookup adds them up

template <class Lookup>
class LookupProduct : Product<typename Lookup::Isa, 1> {
  using Base = Product<typename Lookup::Isa, 1>;

 public:
  static constexpr int64_t kLeastTiles = 32;  // which share tables, the work of one or two tiles

  LookupProduct(const lowbit_bits& weight, const Columns& x, const Epilogue& epilogue, std::byte* work)
      : Base(weight, x, epilogue), work_(work) {}

  // Without tables of a single column.
  static int64_t work_bytes() { return Lookup::kColumns > 1 ? sizeof(State<Lookup::kColumns>) : 0; }

  // Of a single column: [blocks][kTableBytes].
  static int64_t table_bytes(int64_t k_blocks) { return k_blocks * Lookup::kTableBytes; }
  static void build_tables(const lowbit_bits& weight, int64_t tile, const Columns& x, uint8_t* tables) {
    const uint8_t* bits = weight.tiles + tile * weight.planes * x.k_blocks * kBlockBytes;
    for (int64_t block = 0; block < x.k_blocks;
         ++block, bits += 2 * kLineBytes, tables += Lookup::kTableBytes) {
      prefetch(bits);
      prefetch(bits + kLineBytes);
      Lookup::build(x.codes + block * kBlockInputs, tables);
    }
  }

  // Tiles [begin, end) for all tokens.
  void tiles(int64_t begin, int64_t end) const {
    if (x_.tables != nullptr) {
      for (int64_t tile = begin; tile < end; ++tile) this->tile(tile);
      return;
    }
    if constexpr (Lookup::kColumns > 1) {
      for (int64_t tile = begin; tile < end; tile += kGroupTiles) {
        const int64_t count = smaller(kGroupTiles, end - tile);
        if (x_.per_token == 2) {
          groups<Lookup::kColumns / 2, 2>(tile, count, 0);
        } else {
          groups<Lookup::kColumns, 1>(tile, count, 0);
        }
      }
    }
  }

 private:
  using Isa = typename Lookup::Isa;
  using I32 = typename Isa::I32;
  using TileScales = typename Base::TileScales;
  using Base::ahead;
  using Base::column_stride_;
  using Base::finish;
  using Base::runs_;
  using Base::sum_activations;
  using Base::tile_bits;
  using Base::x_;
  using Base::x_groups_;

  static constexpr int64_t kGroupTiles = kLeastTiles;
  static constexpr int kRows = Lookup::kRows;
  static constexpr int kPassRows = kRows * Isa::kLanes;

  template <int kColumns>
  struct State {
    alignas(64) uint8_t tables[Lookup::kStretchBytes];  // [blocks][columns][kTableBytes]
    float acc[kGroupTiles][kColumns][kTileRows];
    int32_t partial[kGroupTiles][kColumns][kTileRows];  // of a run that goes on in the next stretch
  };

  // One tile with tables that exist. Never inlined, as Product::few.
  LOWBIT_NOINLINE void tile(int64_t tile) const {
    float acc[1][kTileRows] = {};
    int32_t partial[1][kTileRows];
    stretch<1, 1>(tile, 0, runs_, 0, x_.k_blocks, x_.tables, acc, partial,
                  [&](int64_t block) LOWBIT_LAMBDA_INLINE { return this->ahead(block); });
    finish(tile, 0, TileScales(*this, tile), acc[0]);
  }

  // Tokens from `token` on, kTokens at a time; of the rest half as many, and so on.
  template <int kTokens, int kPerToken>
  void groups(int64_t first_tile, int64_t count, int64_t token) const {
    for (; token + kTokens <= x_.tokens; token += kTokens) {
      group<kTokens, kPerToken>(first_tile, count, token);
    }
    if constexpr (kTokens > 1) groups<kTokens / 2, kPerToken>(first_tile, count, token);
  }

  template <int kTokens, int kPerToken>
  LOWBIT_NOINLINE void group(int64_t first_tile, int64_t count, int64_t first_token) const {
    constexpr int kColumns = kTokens * kPerToken;
    constexpr int64_t kStretch = Lookup::kStretchBytes / (kColumns * Lookup::kTableBytes);
    State<kColumns>& state = *reinterpret_cast<State<kColumns>*>(work_);
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
        for (int c = 0; c < kColumns; ++c, tables += Lookup::kTableBytes) {
          Lookup::build(codes + c * column_stride_ + block * kBlockInputs, tables);
        }
      }
      for (int64_t tile = 0; tile < count; ++tile) {
        // Fetched ahead: what follows in memory or, in stretches, the same inputs of the next tile or the
        // next inputs of the first.
        const int64_t next = tile + 1 < count ? first_tile + tile + 1 : first_tile;
        const int64_t distance = end - begin == x_.k_blocks
                                     ? kPrefetchBytes
                                     : tile_bits(next) - tile_bits(first_tile + tile) +
                                           (tile + 1 < count ? 0 : (end - begin) * kBlockBytes);
        stretch<kTokens, kPerToken>(first_tile + tile, first_token, run, begin, end, state.tables,
                                    state.acc[tile], state.partial[tile],
                                    [=](int64_t) LOWBIT_LAMBDA_INLINE { return distance; });
      }
      while (!run.done() && run.end() <= end) run.next();
    }
    for (int64_t tile = 0; tile < count; ++tile) {
      const TileScales scales(*this, first_tile + tile);
      for (int t = 0; t < kTokens; ++t)
        finish(first_tile + tile, first_token + t, scales, state.acc[tile][t]);
    }
  }

  // Blocks [begin, end) of one tile; `run` is the run that `begin` lies in. ahead(block): how far ahead of
  // their loads weights are fetched.
  template <int kTokens, int kPerToken, int kColumns, class Ahead>
  LOWBIT_INLINE void stretch(int64_t tile, int64_t first_token, Runs run, int64_t begin, int64_t end,
                             const uint8_t* tables, float (&acc)[kColumns][kTileRows],
                             int32_t (&partial)[kColumns][kTileRows], const Ahead& ahead) const {
    const TileScales scales(*this, tile);
    const uint8_t* bits = tile_bits(tile) + begin * kBlockBytes;
    const int32_t* const block_sums = x_.sums + first_token * kPerToken * x_.k_blocks;
    const float* const x_scales = x_.scales + first_token * x_groups_;
    for (int64_t block = begin; block < end;) {
      const int64_t blocks = smaller(smaller(run.end(), end) - block, kSumBlocks);
      const bool starts = block == run.begin(), ends = block + blocks == run.end();
      int32_t x_sums[kColumns] = {}, start[kColumns] = {};
      if (starts || ends) {
        for (int c = 0; c < kColumns; ++c) {
          x_sums[c] = sum_activations(block_sums + c * x_.k_blocks, run);
          start[c] = -x_sums[c] - 2 * Lookup::kBias * static_cast<int32_t>(run.end() - run.begin());
        }
      }
      const RunEnd<Isa> run_end = scales.end_of(run);
      const int64_t distance = ahead(block);
      for (int64_t row = 0; row < kTileRows; row += kPassRows) {
        const auto before = [&](int r, int c) LOWBIT_LAMBDA_INLINE {
          return starts ? Isa::set1(start[c]) : Isa::load(partial[c] + row + r * Isa::kLanes);
        };
        const auto end = [&](int t, const I32(&total)[kRows][kPerToken]) LOWBIT_LAMBDA_INLINE {
          if (ends) {
            run_end.template add<kPerToken>(total, 0, x_sums + t * kPerToken,
                                            x_scales[t * x_groups_ + run.x_index()], row, acc[t]);
          } else {
            for (int r = 0; r < kRows; ++r) {
              for (int i = 0; i < kPerToken; ++i) {
                Isa::store(partial[t * kPerToken + i] + row + r * Isa::kLanes, total[r][i]);
              }
            }
          }
        };
        Lookup::template add_blocks<kTokens, kPerToken>(bits + row * 4, distance, tables, blocks, before,
                                                        end);
      }
      if (ends) run.next();
      block += blocks;
      bits += blocks * kBlockBytes;
      tables += blocks * kColumns * Lookup::kTableBytes;
    }
  }

  std::byte* const work_;  // a State, of several columns
};

}  // namespace
}  // namespace lowbit
