// Products of pieces with AMX: rows of the weight are rows of a tile, pairs of tokens' values the other one.
//
//                     16 tokens   16 tokens
//   16 rows of w       tile 0      tile 1      a step of 32 inputs adds the products of every piece of rows
//   16 rows of w       tile 2      tile 3      (tiles 4, 5) with every piece of tokens (tiles 6, 7)
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "cpu/codebook/kernel_table.h"
#include "cpu/isa/amx.h"

namespace lowbit {
namespace {

using isa::Tiles;

constexpr int64_t kTile = Tiles::kRows * Tiles::kBytes / sizeof(uint16_t);  // values of a tile
constexpr int64_t kTileRow = Tiles::kBytes / sizeof(uint16_t);
constexpr int64_t kTokens = PieceKernels::kTokens, kRows = PieceKernels::kRows;
constexpr int64_t kInputs = PieceKernels::kInputs;
constexpr int32_t kPieces = PieceKernels::kPieces;
static_assert(kTokens == 2 * Tiles::kRows && kRows == 2 * Tiles::kRows && kInputs == kTileRow);

// Steps whose products join one sum in a tile: 4 additions each, and what a longer chain rounds away adds up.
// Or those of a scale.
constexpr int64_t kChainSteps = 64, kGroupSteps = PieceKernels::kGroup / kInputs;

constexpr int64_t steps_of(int64_t inputs) {
  return (inputs + kInputs - 1) / kInputs;
}

// The pieces of 32 values, each a row of a tile.
struct Split {
  __m512i piece[kPieces];

  LOWBIT_INLINE Split(__m512 first, __m512 second) {
    piece[0] = round(first, second);
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(piece[0]));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(piece[0], 1));
    piece[1] = round(_mm512_sub_ps(first, widen(low)), _mm512_sub_ps(second, widen(high)));
  }

 private:
  static LOWBIT_INLINE __m512i round(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  }
  static LOWBIT_INLINE __m512 widen(__m512i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)); }
};

// out[c][r] = rows[r][c], dwords.
LOWBIT_INLINE void store_transposed(const __m512i* rows, uint16_t* out) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  // b[4 g + c]: in 128-bit part p, column 4 p + c of rows 4 g .. 4 g + 3.
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);  // columns c, 8 + c
    const __m512i odd_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);   // columns 4 + c, 12 + c
    const __m512i even_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
    const auto store = [&](int column, __m512i low, __m512i high, auto which) LOWBIT_LAMBDA_INLINE {
      _mm512_storeu_si512(out + column * kTileRow, _mm512_shuffle_i32x4(low, high, which.value));
    };
    store(c, even_low, even_high, std::integral_constant<int, 0x88>());
    store(4 + c, odd_low, odd_high, std::integral_constant<int, 0x88>());
    store(8 + c, even_low, even_high, std::integral_constant<int, 0xdd>());
    store(12 + c, odd_low, odd_high, std::integral_constant<int, 0xdd>());
  }
}

void pack_tokens(const float* tokens, int64_t stride, int64_t inputs, int32_t pieces, uint16_t* panel) {
  for (int64_t step = 0; step < steps_of(inputs); ++step, panel += pieces * 2 * kTile) {
    for (int64_t half = 0; half < 2; ++half) {
      const float* const values = tokens + half * Tiles::kRows * stride + step * kInputs;
      __m512i rows[kPieces][Tiles::kRows];
      for (int t = 0; t < Tiles::kRows; ++t) {
        const Split split(_mm512_loadu_ps(values + t * stride), _mm512_loadu_ps(values + t * stride + 16));
        for (int p = 0; p < kPieces; ++p) rows[p][t] = split.piece[p];
      }
      for (int32_t p = 0; p < pieces; ++p) store_transposed(rows[p], panel + (2 * p + half) * kTile);
    }
  }
}

int32_t pack_rows(const float* rows, int64_t stride, int64_t count, int64_t inputs, uint16_t* packed) {
  const int64_t steps = steps_of(inputs);
  __m512i rest = _mm512_setzero_si512();
  for (int64_t r = 0; r < (count + kRows - 1) / kRows * kRows; ++r) {
    uint16_t* out = packed + r / kRows * steps * kPieces * 2 * kTile + r % kRows * kTileRow;
    for (int64_t step = 0; step < steps; ++step, out += kPieces * 2 * kTile) {
      const int64_t left = r < count ? inputs - step * kInputs : 0;
      const float* const values = rows + r * stride + step * kInputs;
      const auto load = [&](int64_t first) LOWBIT_LAMBDA_INLINE {
        const int64_t lanes = std::clamp<int64_t>(left - first, 0, 16);
        return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1), values + first);
      };
      const Split split(load(0), load(16));
      for (int p = 0; p < kPieces; ++p) _mm512_storeu_si512(out + p * 2 * kTile, split.piece[p]);
      rest = _mm512_or_si512(rest, split.piece[1]);
    }
  }
  return _mm512_test_epi32_mask(rest, rest) != 0 ? kPieces : 1;
}

template <bool kBothTokens>
LOWBIT_INLINE void zero_sums() {
  Tiles::zero<0>();
  Tiles::zero<2>();
  if constexpr (kBothTokens) {
    Tiles::zero<1>();
    Tiles::zero<3>();
  }
}

template <bool kBothTokens>
LOWBIT_INLINE void store_sums(float* sums) {
  constexpr int64_t kStride = kTokens * sizeof(float);
  Tiles::store<0>(sums, kStride);
  Tiles::store<2>(sums + Tiles::kRows * kTokens, kStride);
  if constexpr (kBothTokens) {
    Tiles::store<1>(sums + Tiles::kRows, kStride);
    Tiles::store<3>(sums + Tiles::kRows * kTokens + Tiles::kRows, kStride);
  }
}

// The products of a step, kRows x kTokens.
template <bool kBothTokens>
LOWBIT_INLINE void add_step(const uint16_t* rows, int32_t row_pieces, const uint16_t* panel,
                            int32_t token_pieces) {
  const auto load_tokens = [](const uint16_t* tokens) LOWBIT_LAMBDA_INLINE {
    Tiles::load<6>(tokens, Tiles::kBytes);
    if constexpr (kBothTokens) Tiles::load<7>(tokens + kTile, Tiles::kBytes);
  };
  // Loads take as long as products: tokens of one piece stay in their tiles.
  if (token_pieces == 1) load_tokens(panel);
  for (int32_t i = 0; i < row_pieces; ++i, rows += 2 * kTile) {
    Tiles::load<4>(rows, Tiles::kBytes);
    Tiles::load<5>(rows + kTile, Tiles::kBytes);
    for (int32_t j = 0; j < token_pieces; ++j) {
      if (token_pieces > 1) load_tokens(panel + j * 2 * kTile);
      Tiles::multiply_bf16<0, 4, 6>();
      Tiles::multiply_bf16<2, 5, 6>();
      if constexpr (kBothTokens) {
        Tiles::multiply_bf16<1, 4, 7>();
        Tiles::multiply_bf16<3, 5, 7>();
      }
    }
  }
}

// sums = or += chain * scale, [kRows][kTokens], and the scales of the first `kTokens`.
LOWBIT_INLINE void add_chain(const float* chain, const __m512* scales, bool first, float* sums) {
  for (int64_t i = 0; i < kRows * kTokens; i += 32) {
    for (int v = 0; v < 2; ++v) {
      float* const sum = sums + i + 16 * v;
      const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sum);
      _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(chain + i + 16 * v), scales[v], before));
    }
  }
}

template <bool kBothTokens>
void multiply_tokens(const uint16_t* rows, int64_t count, int32_t row_pieces, const PiecePanel& panel,
                     int64_t inputs, float* sums) {
  const Tiles registers(Tiles::kRows);
  const int64_t steps = steps_of(inputs);
  const int64_t chain_steps = panel.scales != nullptr ? kGroupSteps : kChainSteps;
  alignas(64) float chain[kRows * kTokens] = {};
  for (int64_t r = 0; r < count; r += kRows, sums += kRows * kTokens) {
    const uint16_t* x = panel.data;
    for (int64_t step = 0; step < steps;) {
      const int64_t begin = step;
      zero_sums<kBothTokens>();
      for (const int64_t last = std::min(step + chain_steps, steps); step < last; ++step) {
        add_step<kBothTokens>(rows, row_pieces, x, panel.pieces);
        rows += kPieces * 2 * kTile;
        x += panel.pieces * 2 * kTile;
      }
      store_sums<kBothTokens>(chain);
      __m512 scales[2] = {_mm512_set1_ps(1.0f), _mm512_set1_ps(1.0f)};
      if (panel.scales != nullptr) {
        const float* const group = panel.scales + begin / kGroupSteps * kTokens;
        for (int v = 0; v < 2; ++v) scales[v] = _mm512_loadu_ps(group + 16 * v);
      }
      add_chain(chain, scales, begin == 0, sums);
    }
  }
}

void multiply(const uint16_t* rows, int64_t count, int32_t row_pieces, const PiecePanel& panel,
              int64_t tokens, int64_t inputs, float* sums) {
  tokens > Tiles::kRows ? multiply_tokens<true>(rows, count, row_pieces, panel, inputs, sums)
                        : multiply_tokens<false>(rows, count, row_pieces, panel, inputs, sums);
}

}  // namespace

extern const PieceKernels piece_kernels_amx = {pack_tokens, pack_rows, multiply};

}  // namespace lowbit
