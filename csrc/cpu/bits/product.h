// The integer product: precisions `fast` and `high`, and activations quantised to a few bits.
//
// Per run and row, exactly (u = code of a weight, q = integer value of an activation, b active planes of B):
//   t = sum (2 u - (2^b - 1)) q = 2 sum u q - (2^b - 1) sum q        both columns of a token combined
//   v = float(t << (B - b)), with offsets fma(offset, float(sum q), v)
// and then, run by run in ascending order,
//   one weight scale per row:  acc = fma(v, x_scale, acc), times the row scale at the end
//   grouped weight scales:     acc = fma(v * x_scale, w_scale, acc)
// Offsets join as floats because an int16 times a sum of 16-bit values can exceed 32 bits. For runs of 128
// inputs
// (`fast`) all operands are below 2^24, and the fma is the correctly rounded exact integer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/bits/bits.h"
#include "cpu/bits/epilogue.h"
#include "cpu/bits/expanded_form.h"
#include "cpu/bits/register_form.h"
#include "cpu/bits/run_end.h"
#include "cpu/bits/runs.h"
#include "cpu/isa/inline.h"

namespace lowbit {
namespace {

template <class Isa, int kPlanes>
class Product {
 public:
  // Nothing is shared by tiles, and there are no tables.
  static constexpr int64_t kLeastTiles = 1;
  static int64_t work_bytes() { return 0; }
  static int64_t table_bytes(int64_t) { return 0; }
  static void build_tables(const lowbit_bits&, int64_t, const Columns&, uint8_t*) {}

  Product(const lowbit_bits& weight, const Columns& x, const Epilogue& epilogue, std::byte* = nullptr)
      : weight_(weight),
        x_(x),
        epilogue_(epilogue),
        runs_(x.k_blocks, x.x_group_blocks, weight_group_blocks(weight),
              max_run_blocks(x.max_code, weight.planes)),
        groups_(weight_groups(weight)),
        x_groups_((x.k_blocks + x.x_group_blocks - 1) / x.x_group_blocks),
        plane_stride_(x.k_blocks * kBlockBytes),
        column_stride_(x.k_blocks * kBlockInputs) {}

  // Tiles [begin, end) for all tokens.
  void tiles(int64_t begin, int64_t end) const {
    for (int64_t tile = begin; tile < end; ++tile) this->tile(tile);
  }

 private:
  using I32 = typename Isa::I32;

  void tile(int64_t tile) const {
    const int64_t block_tokens = kBlockColumns / x_.per_token;
    for (int64_t token = 0; token < x_.tokens; token += block_tokens) {
      const int64_t tokens = smaller(block_tokens, x_.tokens - token);
      switch (tokens * x_.per_token) {
        case 1:
          few<1, 1>(tile, token);
          break;
        case 2:
          x_.per_token == 1 ? few<2, 1>(tile, token) : few<1, 2>(tile, token);
          break;
        case 3:
          few<3, 1>(tile, token);
          break;
        case 4:
          x_.per_token == 1 ? few<4, 1>(tile, token) : few<2, 2>(tile, token);
          break;
        default:
          many(tile, token, tokens);
      }
    }
  }

  static constexpr int kRegisterColumns = Isa::kAccumulators >= 16 ? 4 : 2;
  // Where four columns fit into the registers, expanding 1 or 2 planes saves fewer instructions than it
  // costs, for any number of columns. Dot products of signed bytes, or with 16-bit sums, cannot hold 8-bit
  // codes; those are multiplied in nibbles, in registers.
  static constexpr bool kExpanded =
      (kPlanes > 2 || kRegisterColumns < 4) && (kPlanes < 8 || Isa::kFullByteDot);
  // Columns that share one pass over a tile. In the expanded form, as many as keep their floats, expanded
  // weights and the sums of a group, 22 KB, in a first cache of 32 KB; sums between the pieces of a longer
  // run, which only activations of few bits and `high` have, are 12 KB more and do not all fit. All of it is
  // on the stack.
  static constexpr int64_t kBlockColumns = kExpanded ? 48 : kRegisterColumns;
  // Up to kRegisterColumns columns. Never inlined, so that profiles and benchmarks/asm_report can name each
  // loop.
  template <int kTokens, int kPerToken>
  LOWBIT_NOINLINE void few(int64_t tile, int64_t first_token) const {
    constexpr int kColumns = kTokens * kPerToken;
    if constexpr (kColumns > kRegisterColumns) {
      many(tile, first_token, kTokens);
    } else {
      using Form = RegisterForm<Isa, kPlanes, kColumns>;
      const TileScales scales(*this, tile);
      float acc[kTokens][kTileRows] = {};
      const uint8_t* bits = tile_bits(tile);
      const int8_t* codes = x_.codes + first_token * kPerToken * column_stride_;
      const int32_t* block_sums = x_.sums + first_token * kPerToken * x_.k_blocks;
      const float* x_scales = x_.scales + first_token * x_groups_;
      for (Runs run = runs_; !run.done(); run.next()) {
        int32_t x_sums[kColumns], start[kColumns];
        for (int c = 0; c < kColumns; ++c) {
          x_sums[c] = sum_activations(block_sums + c * x_.k_blocks, run);
          start[c] = kSumFactor * x_sums[c];
        }
        const RunEnd<Isa> run_end = scales.end_of(run);
        Form::run(bits + run.begin() * kBlockBytes, plane_stride_, ahead(run.begin()),
                  codes + run.begin() * kBlockInputs, column_stride_, run.end() - run.begin(), start,
                  [&](int row, const I32(&total)[Form::kRows][kColumns]) {
                    for (int t = 0; t < kTokens; ++t) {
                      const float x_scale = x_scales[t * x_groups_ + run.x_index()];
                      run_end.template add<kPerToken>(total, t * kPerToken, x_sums + t * kPerToken, x_scale,
                                                      row, acc[t]);
                    }
                  });
      }
      for (int t = 0; t < kTokens; ++t) finish(tile, first_token + t, scales, acc[t]);
    }
  }

  // Up to kBlockColumns columns.
  void many(int64_t tile, int64_t first_token, int64_t tokens) const {
    if constexpr (kExpanded) {
      constexpr int64_t kMostSteps = Isa::kSumLimit / (-kSumFactor * int64_t{256});
      using Kernel = ExpandedKernel < Isa, kMostSteps<kExpandedSteps ? kMostSteps : kExpandedSteps>;
      const TileScales scales(*this, tile);
      float acc[kBlockColumns][kTileRows];
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t row = 0; row < kTileRows; ++row) acc[t][row] = 0.0f;
      }
      alignas(64) uint8_t expanded[kExpandedBytes];
      int32_t partial[kBlockColumns * kTileRows];
      int32_t x_sums[kBlockColumns];
      const int64_t first_column = first_token * x_.per_token;
      ExpandedPiece<Isa> piece;
      piece.expanded = expanded;
      piece.columns = tokens * x_.per_token;
      piece.column_stride = column_stride_;
      piece.x_sum_factor = kSumFactor;
      piece.x_sums = x_sums;
      piece.x_scale_stride = x_groups_;
      piece.partial = partial;
      piece.acc = acc;
      for (Runs run = runs_; !run.done(); run.next()) {
        for (int64_t c = 0; c < piece.columns; ++c) {
          x_sums[c] = sum_activations(x_.sums + (first_column + c) * x_.k_blocks, run);
        }
        piece.x_scales = x_.scales + first_token * x_groups_ + run.x_index();
        piece.end = scales.end_of(run);
        for (int64_t block = run.begin(); block < run.end(); block += kExpandedBlocks) {
          const int64_t blocks = smaller(kExpandedBlocks, run.end() - block);
          Expander<Isa, kPlanes>::expand(tile_bits(tile) + block * kBlockBytes, plane_stride_, ahead(block),
                                         blocks, expanded);
          piece.steps = blocks * 8;
          piece.first = block == run.begin();
          piece.last = block + blocks == run.end();
          piece.codes = x_.codes + first_column * column_stride_ + block * kBlockInputs;
          Kernel::multiply(piece, x_.per_token);
        }
      }
      for (int64_t t = 0; t < tokens; ++t) finish(tile, first_token + t, scales, acc[t]);
    }
  }

 protected:
  static constexpr int32_t kSumFactor = -((1 << kPlanes) - 1);

  // The scales of a tile as floats, converted group by group.
  class TileScales {
   public:
    LOWBIT_INLINE TileScales(const Product& product, int64_t tile)
        : weight_(product.weight_),
          radix_shift_(product.x_.radix_shift),
          first_group_(tile * product.groups_),
          grouped_(weight_.scales != nullptr && product.groups_ > 1),
          per_row_(weight_.scales != nullptr && product.groups_ == 1) {
      if (per_row_) load(0);
    }

    LOWBIT_INLINE RunEnd<Isa> end_of(const Runs& run) const {
      if (grouped_) load(run.w_index());
      const int64_t first = (first_group_ + run.w_index()) * kTileRows;
      return {radix_shift_, weight_.planes - kPlanes, grouped_ ? floats_ : nullptr,
              weight_.offsets == nullptr ? nullptr : weight_.offsets + first};
    }

    const float* per_row() const { return per_row_ ? floats_ : nullptr; }

   private:
    LOWBIT_INLINE void load(int64_t group) const {
      load_rows<Isa>(weight_.scales, weight_.scales_dtype, (first_group_ + group) * kTileRows, floats_);
    }

    const lowbit_bits& weight_;
    const int radix_shift_;
    const int64_t first_group_;
    const bool grouped_, per_row_;
    mutable float floats_[kTileRows];
  };

  int64_t ahead(int64_t block) const {
    return prefetch_distance(weight_.planes, plane_stride_, block * kBlockBytes);
  }

  const uint8_t* tile_bits(int64_t tile) const {
    return weight_.tiles + tile * weight_.planes * plane_stride_;
  }

  static LOWBIT_INLINE int32_t sum_activations(const int32_t* block_sums, const Runs& run) {
    int32_t sum = 0;
    for (int64_t block = run.begin(); block < run.end(); ++block) {
      sum += block_sums[block];
      LOWBIT_FORGET(sum);  // most runs have four blocks: not worth the prologue of a vectorised loop
    }
    return sum;
  }

  void finish(int64_t tile, int64_t token, const TileScales& scales, float* acc) const {
    const int64_t first_row = tile * kTileRows;
    const int64_t rows = smaller(kTileRows, weight_.out_features - first_row);
    finish_rows<Isa>(epilogue_, token, first_row, rows, scales.per_row(), acc);
  }

  const lowbit_bits& weight_;
  const Columns& x_;
  const Epilogue& epilogue_;
  const Runs runs_;
  const int64_t groups_, x_groups_;
  const int64_t plane_stride_, column_stride_;
};

}  // namespace
}  // namespace lowbit
