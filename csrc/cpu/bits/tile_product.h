// The product of many columns with AMX: expanded weights and codes are tiles as they lie.
//
//   codes      [columns][.. 64 inputs ..]      a tile: 16 columns of a step, which is two blocks
//   expanded   [16][64 rows][4 inputs]         of a step, four tiles of 16 rows
//   sums       [16 columns][64 rows]           four tiles
//
// Columns are multiplied in as few groups of up to 16 as they need, all of one size: a tile takes as long as
// it has rows, and so 17 columns are 9 and 9, not 16 and 16. The last group shares columns with the one
// before, whose sums come out once more and are dropped. While the tiles of a group are multiplied, vector
// units finish the group before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/bits/product.h"
#include "cpu/isa/amx.h"

namespace lowbit {
namespace {

// Groups that share expanded weights, and their columns.
constexpr int64_t kBlockGroups = 8;
constexpr int64_t kBlockColumns = kBlockGroups * isa::Tiles::kRows;

struct TileWork {
  alignas(64) float acc[kBlockColumns][kTileRows];
  int32_t sums[kBlockGroups][isa::Tiles::kRows][kTileRows];
  uint8_t expanded[kExpandedBytes];
};
constexpr int64_t kTileWorkBytes = sizeof(TileWork);

template <int kPlanes>
class TileProduct : Product<isa::Avx512, kPlanes> {
  using Base = Product<isa::Avx512, kPlanes>;

 public:
  TileProduct(const lowbit_bits& weight, const Columns& x, const Epilogue& epilogue, std::byte* work)
      : Base(weight, x, epilogue),
        work_(*reinterpret_cast<TileWork*>(work)),
        columns_(x.tokens * x.per_token) {
    const int64_t groups = pieces(columns_, Tiles::kRows);
    group_columns_ = pieces(pieces(columns_, groups), x.per_token) * x.per_token;
    block_columns_ = pieces(groups, pieces(groups, kBlockGroups)) * group_columns_;
  }

  // Tiles [begin, end) for all tokens.
  void tiles(int64_t begin, int64_t end) const {
    const Tiles registers(static_cast<int>(group_columns_));
    const int64_t block_tokens = block_columns_ / x_.per_token;
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t token = 0; token < x_.tokens; token += block_tokens) {
        const int64_t tokens = smaller(block_tokens, x_.tokens - token);
        x_.per_token == 1 ? block<1>(tile, token, tokens) : block<2>(tile, token, tokens);
      }
    }
  }

 private:
  using Isa = isa::Avx512;
  using I32 = Isa::I32;
  using Tiles = isa::Tiles;
  using TileScales = typename Base::TileScales;
  using Base::ahead;
  using Base::column_stride_;
  using Base::finish;
  using Base::kSumFactor;
  using Base::plane_stride_;
  using Base::runs_;
  using Base::sum_activations;
  using Base::tile_bits;
  using Base::weight_;
  using Base::x_;
  using Base::x_groups_;

  // The value 2 code - (2^planes - 1) of a weight. That of eight planes is no byte: there the codes are
  // multiplied, and a run starts with what the sum of activations lacks.
  //
  //   bit of the value   7 .. planes           planes - 1 .. 1      0
  //   is                 not the highest of    the others of the    1
  //                      the code              code
  //
  // which is one product with a matrix of bits, whose byte 7 - i selects what becomes bit i.
  static constexpr bool kValues = kPlanes < 8;
  struct Values {
    template <int kWidth, int kSlot>
    static LOWBIT_INLINE I32 of(I32 slots) {
      constexpr int kHighest = (0xff << kPlanes) & 0xff;
      return _mm512_gf2p8affine_epi64_epi8(slots, _mm512_set1_epi64(matrix(kWidth * kSlot)), kHighest | 1);
    }

   private:
    static constexpr int64_t matrix(int first) {
      uint64_t result = 0;
      for (int bit = 1; bit < 8; ++bit) {
        const int from = first + (bit < kPlanes ? bit : kPlanes) - 1;
        result |= uint64_t{1} << (8 * (7 - bit) + from);
      }
      return static_cast<int64_t>(result);
    }
  };
  using ExpandedCodes = std::conditional_t<kValues, Values, PlainCodes<Isa>>;

  static constexpr int64_t kStepBlocks = 2;
  static constexpr int64_t kStepBytes = kStepBlocks * 8 * kBlockBytes;  // of expanded weights
  // Tiles behind the four of sums: codes of two steps, weights of two steps.
  static constexpr int kCodes = 4, kWeights = 6;
  static constexpr int64_t kSumsBytes = kTileRows * sizeof(int32_t);

  // The columns of a group whose sums of a run are complete; those before `next` are done.
  template <int kPerToken>
  struct Finished {
    const RunEnd<Isa>* run_end;
    const int32_t (*sums)[kTileRows];
    const int32_t* x_sums;
    const float* x_scales;
    int64_t x_scale_stride;
    float (*acc)[kTileRows];  // of the first column's token
    int64_t next, last;

    // Six times, beside the products of a group: all of 16 columns. Inlined, which makes 49 KB of block<1>,
    // of which a layer executes one of three kinds of run end. Called, a pass takes 1.08 to 1.25 of the time.
    LOWBIT_INLINE void some() {
      if (next < last) token();
      if (next < last) token();
      if constexpr (kPerToken == 1) {
        if (next < last) token();
      }
    }
    LOWBIT_INLINE void rest() {
      while (next < last) token();
    }

   private:
    LOWBIT_INLINE void token() {
      constexpr int kRows = kTileRows / Isa::kLanes;
      I32 total[kRows][kPerToken];
      for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < kPerToken; ++p) {
          total[r][p] = Isa::load(sums[next + p] + r * Isa::kLanes);
          if constexpr (!kValues)
            total[r][p] = Isa::template fold<1>(Isa::set1(kSumFactor * x_sums[next + p]), total[r][p]);
        }
      }
      const int64_t t = next / kPerToken;
      run_end->template add<kPerToken>(total, 0, x_sums + next, x_scales[t * x_scale_stride], 0, acc[t]);
      next += kPerToken;
    }
  };

  static int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

  template <int kPerToken>
  LOWBIT_NOINLINE void block(int64_t tile, int64_t first_token, int64_t tokens) const {
    const TileScales scales(*this, tile);
    auto& [acc, sums, expanded] = work_;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t row = 0; row < kTileRows; ++row) acc[t][row] = 0.0f;
    }
    const bool sums_wanted = !kValues || weight_.offsets != nullptr;
    const int64_t first = first_token * kPerToken, end = first + tokens * kPerToken;
    int32_t x_sums[kBlockColumns] = {};
    for (Runs run = runs_; !run.done(); run.next()) {
      if (sums_wanted) {
        for (int64_t column = first; column < end; ++column) {
          x_sums[column - first] = sum_activations(x_.sums + column * x_.k_blocks, run);
        }
      }
      const RunEnd<Isa> run_end = scales.end_of(run);
      const float* const x_scales = x_.scales + first_token * x_groups_ + run.x_index();
      const bool whole = run.end() - run.begin() <= kExpandedBlocks;  // in one piece
      for (int64_t at = run.begin(); at < run.end(); at += kExpandedBlocks) {
        const int64_t blocks = smaller(kExpandedBlocks, run.end() - at);
        Expander<Isa, kPlanes, ExpandedCodes>::expand(tile_bits(tile) + at * kBlockBytes, plane_stride_,
                                                      ahead(at), blocks, expanded);
        int32_t* unstored = nullptr;
        Finished<kPerToken> before{};
        before.run_end = &run_end;
        before.x_scale_stride = x_groups_;
        for (int64_t column = first, group = 0; column < end; column += group_columns_, ++group) {
          auto& group_sums = sums[whole ? group % 2 : group];
          // Where columns run out the group starts before its first one.
          const int64_t start = smaller(column, columns_ - group_columns_);
          multiply(x_.codes + start * column_stride_ + at * kBlockInputs, blocks, expanded, at > run.begin(),
                   group_sums[0], unstored, before);
          unstored = group_sums[0];
          if (at + blocks == run.end()) {
            const int64_t token = (column - first) / kPerToken;
            before.sums = group_sums + (column - start);
            before.x_sums = x_sums + (column - first);
            before.x_scales = x_scales + token * x_groups_;
            before.acc = acc + token;
            before.next = 0;
            before.last = smaller(group_columns_, end - column);
          }
        }
        store_rest(unstored);
        before.rest();
      }
    }
    for (int64_t t = 0; t < tokens; ++t) finish(tile, first_token + t, scales, acc[t]);
  }

  // sums [16 columns][64] of up to kExpandedBlocks blocks, added to what is there where `more`. A store waits
  // for the products of its tile, so those of two other tiles come first: the last two tiles are stored in
  // the next group, and here those of the group before, to `unstored`.
  template <class Before>
  LOWBIT_INLINE void multiply(const int8_t* codes, int64_t blocks, const uint8_t* expanded, bool more,
                              int32_t* sums, int32_t* unstored, Before& before) const {
    static_assert(kExpandedBlocks == 2 * kStepBlocks);
    const bool two = blocks > kStepBlocks;
    // From here on all sums of the group before are in memory; those of its last tile come at n == 1. Sooner
    // they must not be read.
    constexpr int kBeforeStored = 1;
    load_codes<kCodes>(codes, blocks);
    if (two) load_codes<kCodes + 1>(codes + kStepBlocks * kBlockInputs, blocks - kStepBlocks);
    each([&]<int n>() LOWBIT_LAMBDA_INLINE {
      if constexpr (n >= 2) {
        store<n - 2>(sums);
      } else if (unstored != nullptr) {
        store<n + 2>(unstored);
      }
      more ? Tiles::load<n>(sums + 16 * n, kSumsBytes) : Tiles::zero<n>();
      Tiles::load<kWeights>(expanded + 64 * n, kBlockBytes);
      Tiles::multiply<n, kCodes, kWeights, kValues>();
      if constexpr (n >= kBeforeStored) before.some();
      if (two) {
        Tiles::load<kWeights + 1>(expanded + kStepBytes + 64 * n, kBlockBytes);
        Tiles::multiply<n, kCodes + 1, kWeights + 1, kValues>();
      }
      if constexpr (n >= kBeforeStored) before.some();
    });
    before.rest();
  }

  template <int n>
  static LOWBIT_INLINE void store(int32_t* sums) {
    Tiles::store<n>(sums + 16 * n, kSumsBytes);
  }
  static LOWBIT_INLINE void store_rest(int32_t* sums) {
    store<2>(sums);
    store<3>(sums);
  }

  template <int kTile>
  LOWBIT_INLINE void load_codes(const int8_t* codes, int64_t blocks) const {
    if (blocks >= kStepBlocks) [[likely]] {
      Tiles::load<kTile>(codes, column_stride_);
    } else {
      load_half<kTile>(codes);
    }
  }

  // One block and, behind it, zeros: nothing more is read or added. Apart, so that the loop has no other in
  // it.
  template <int kTile>
  LOWBIT_NOINLINE void load_half(const int8_t* codes) const {
    alignas(64) int8_t half[Tiles::kRows][kStepBlocks * kBlockInputs] = {};
    for (int64_t c = 0; c < group_columns_; ++c) {
      std::memcpy(half[c], codes + c * column_stride_, kBlockInputs);
    }
    Tiles::load<kTile>(half, sizeof half[0]);
  }

  // The four tiles of 64 rows.
  template <class Body>
  static LOWBIT_INLINE void each(Body body) {
    body.template operator()<0>();
    body.template operator()<1>();
    body.template operator()<2>();
    body.template operator()<3>();
  }

  TileWork& work_;
  const int64_t columns_;
  int64_t group_columns_, block_columns_;
};

}  // namespace
}  // namespace lowbit
