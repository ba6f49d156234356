// Products with many tokens. A block computes 8 row tiles by 64 columns, a warp one row tile by all of them,
// so that what it costs to expand a weight is shared by 8 products.
//
//   columns   fields of 128 inputs travel to shared memory two deep (cp.async); all warps read them
//   scales    of the activations, and sums: spans of 1024 inputs, the same way
//   weights   straight to the registers of the warp that owns the row tile, a superblock ahead
#include "cuda/bits/epilogue.h"
#include "cuda/bits/loops.h"

namespace lowbit::cuda {
namespace {

constexpr int kGemmWarps = 8;
constexpr int kGemmThreads = 32 * kGemmWarps;
constexpr int kGemmColumns = 64;
constexpr int kColumnTiles = kGemmColumns / 8;

struct GemmParams {
  LayerParams layer;
  Columns x;
  float offset_factor;
};

// What a thread copies of an array that grows by a step at a time: pieces of 16 bytes, kPieces of all
// threads.
template <int kPieces>
class Copies {
 public:
  // piece(i, &from): where piece i begins at the first step, false where there is none.
  template <class Piece>
  LOWBIT_DEVICE explicit Copies(const Piece& piece) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const char* from = nullptr;
      const int i = static_cast<int>(threadIdx.x) + r * kGemmThreads;
      valid_[r] = i < kPieces && piece(i, from);
      from_[r] = in_register(from);
    }
  }

  // The pieces `offset` bytes further, one after the other; zeros for those that do not exist.
  LOWBIT_DEVICE void start(char* to, int64_t offset) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int i = static_cast<int>(threadIdx.x) + r * kGemmThreads;
      if (kPieces % kGemmThreads == 0 || i < kPieces) cp_async_16(to + 16 * i, from_[r] + offset, valid_[r]);
    }
  }

 private:
  static constexpr int kRounds = (kPieces + kGemmThreads - 1) / kGemmThreads;

  const char* from_[kRounds];
  bool valid_[kRounds];
};

// Columns, scales and sums in shared memory:
//
//   codes [2 turns][8 tiles of columns] groups of 128 inputs, as in cuda/activations/columns.h
//   [2 turns]  scales of a span [64 columns][8]   sums [64 columns][units]
template <Flush kFlush>
class Stages {
 public:
  static constexpr int kScales = kFlush == Flush::never ? 0 : kSpanFields;
  static constexpr int kSums = has_units(kFlush) ? kSpanFields * units_per_field(kFlush) : 0;
  static constexpr int kCodesBytes = kColumnTiles * kGroupBytes;
  static constexpr int kScalesBytes = kGemmColumns * kScales * static_cast<int>(sizeof(float));
  static constexpr int kSpanBytes = kScalesBytes + kGemmColumns * kSums * static_cast<int>(sizeof(float));
  static constexpr int kBytes = 2 * (kCodesBytes + kSpanBytes);

  LOWBIT_DEVICE Stages(char* shared, const Columns& x, int set, int first_column)
      : shared_(shared),
        codes_([&](int i, const char*& from) {
          constexpr int kPieces = kGroupBytes / 16, kColumnPieces = kColumnBytes / 16;
          const int column = first_column + i / kPieces * kTileColumns;
          if (column + i / kColumnPieces % kTileColumns >= x.count()) return false;
          from = reinterpret_cast<const char*>(x.codes_of(set, column)) + 16 * (i % kPieces);
          return true;
        }),
        scales_([&](int i, const char*& from) {
          return find<kScales>(x, first_column, i, [&](int token) { return x.scales_of(set, token); }, from);
        }),
        sums_([&](int i, const char*& from) {
          return find<kSums>(x, first_column, i, [&](int token) { return x.sums_of(set, token); }, from);
        }) {}

  // Starts the copy of a field's columns, and at the first field of a span of the span's scales and sums.
  LOWBIT_DEVICE void start(int field, int turn) const {
    codes_.start(codes(turn), int64_t{field} * kGroupBytes);
    if (kSpanBytes > 0 && field % kSpanFields == 0) {
      const int span = field / kSpanFields;
      scales_.start(spans(span & 1), step_of<kScales>(span));
      sums_.start(spans(span & 1) + kScalesBytes, step_of<kSums>(span));
    }
    cp_async_commit();
  }

  // B registers of this lane: columns 8 tile + (lane >> 2) of the field in turn.
  LOWBIT_DEVICE void load(int turn, int tile, int lane, FieldColumns& columns) const {
    const char* const pieces = codes(turn) + tile * kGroupBytes + 16 * lane;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      columns.set_half(half, *reinterpret_cast<const uint4*>(pieces + half * kHalfGroupBytes));
    }
  }
  LOWBIT_DEVICE float scale(int field, int column) const {
    return floats(field, 0)[column * kScales + field % kSpanFields];
  }
  // Sum `unit` of the field.
  LOWBIT_DEVICE float sum(int field, int unit, int column) const {
    constexpr int kPerField = kSums / kSpanFields;
    return floats(field, kScalesBytes)[column * kSums + field % kSpanFields * kPerField + unit];
  }

 private:
  // Piece i of the values of a span, kCount to a column.
  template <int kCount, class FirstOf>
  static LOWBIT_DEVICE bool find(const Columns& x, int first_column, int i, const FirstOf& first_of,
                                 const char*& from) {
    if constexpr (kCount > 0) {
      const int column = first_column + i / (kCount / 4);
      if (column >= x.count()) return false;
      from = reinterpret_cast<const char*>(first_of(column >> (x.per_token - 1)) +
                                           Columns::place_of(4 * (i % (kCount / 4))));
      return true;
    }
    return false;
  }
  template <int kCount>
  static LOWBIT_DEVICE int64_t step_of(int span) {
    return int64_t{span} * (kCount * kTileTokens * static_cast<int>(sizeof(float)));
  }

  LOWBIT_DEVICE char* codes(int turn) const { return shared_ + turn * kCodesBytes; }
  LOWBIT_DEVICE char* spans(int turn) const { return shared_ + 2 * kCodesBytes + turn * kSpanBytes; }
  LOWBIT_DEVICE const float* floats(int field, int offset) const {
    return reinterpret_cast<const float*>(spans(field / kSpanFields & 1) + offset);
  }

  char* shared_;
  Copies<kCodesBytes / 16> codes_;
  Copies<kScalesBytes / 16> scales_;
  Copies<(kSpanBytes - kScalesBytes) / 16> sums_;
};

// Scales of the two rows of a lane for the units of a field, and what an offset adds to a share of the sums.
template <Flush kFlush>
struct FieldScales {
  static constexpr int kUnits = units_per_field(kFlush);
  float scales[2][kUnits];
  float offsets[2][kUnits];

  LOWBIT_DEVICE void load(const LayerParams& layer, const SegmentParams& segment, int64_t first_row,
                          int field, float offset_factor) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int64_t unit = (first_row + 8 * i) * layer.units + field * kUnits + u;
        scales[i][u] = load_value(segment.scales, layer.scales_dtype, unit);
        offsets[i][u] =
            segment.offsets == nullptr ? 0.0f : static_cast<float>(segment.offsets[unit]) * offset_factor;
      }
    }
  }
};

template <Flush kFlush>
__global__ void __launch_bounds__(kGemmThreads, 1) gemm_kernel(const GemmParams p) {
  using S = Stages<kFlush>;
  constexpr bool kGrouped = kFlush != Flush::never;
  constexpr bool kBySteps = kFlush == Flush::by_32;
  LOWBIT_SHARED(char, shared, S::kBytes);
  const LayerParams& layer = p.layer;
  const SegmentParams& segment = layer.segments[segment_of(layer, blockIdx.x)];
  const int lane = threadIdx.x & 31;
  const int own_tile = (static_cast<int>(blockIdx.x) - segment.first_block) * kGemmWarps + threadIdx.x / 32;
  const int tile = min(own_tile, tiles_of(segment) - 1);
  const int first_column = blockIdx.y * kGemmColumns;
  const int64_t first_row = int64_t{kRowTile} * tile + (lane >> 2);
  const int fields = static_cast<int>((layer.in_features + kScaleInputs - 1) / kScaleInputs);
  const S stages(shared, p.x, segment.set, first_column);
  const Magic magic(0);
  // A token of two columns has its offset once, with the second one.
  const float has_offset[2] = {p.x.per_token == 2 ? 0.0f : 1.0f, 1.0f};

  int sums[kColumnTiles][4] = {};
  float y[kColumnTiles][4] = {};
  wait_for_previous_kernel();
  for (int i = 0; i < layer.num_passes; ++i) {
    const Pass& pass = layer.passes[i];
    const int width = pass.width;
    const uint32_t mask = ((1u << width) - 1u) * 0x01010101u;
    const float offset_factor = i + 1 == layer.num_passes ? p.offset_factor : 0.0f;
    const uint4* const words = tile_words(segment, pass, tile, 0, lane);
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[c][j] <<= width;
        y[c][j] *= static_cast<float>(1 << width);
      }
    }
    Words current, next;
    next.load(words);
    stages.start(0, 0);
#pragma unroll 1
    for (int field = 0; field < fields; ++field) {
      const int shift = field * width % 8;
      if (shift == 0) {
        const int following = field * width / 8 + 1;
        current = next;
        if (following < pass.superblocks) next.load(advance(words, following, kSuperblockWords));
      }
      uint32_t a[kSteps][4];
#pragma unroll
      for (int q = 0; q < kSteps; ++q) {
        const uint4& raw = current.step[q];
        mask_words(a[q], {raw.x >> shift, raw.y >> shift, raw.z >> shift, raw.w >> shift}, mask);
      }
      FieldScales<kFlush> rows;
      if constexpr (has_units(kFlush)) rows.load(layer, segment, first_row, field, offset_factor);
      cp_async_wait<0>();
      __syncthreads();
      if (field + 1 < fields) stages.start(field + 1, (field + 1) & 1);
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        FieldColumns columns;
        stages.load(field & 1, c, lane, columns);
        if constexpr (!kGrouped) {
#pragma unroll
          for (int q = 0; q < kSteps; ++q) mma_u8s8(sums[c], a[q], columns.b[q]);
        } else {
          int partial[4];
#pragma unroll
          for (int q = 0; q < kSteps; ++q) {
            multiply_step(partial, a[q], columns.b[q], kBySteps || q == 0, magic.c);
            if (!kBySteps && q + 1 < kSteps) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const int column = 8 * c + 2 * (lane & 3) + (j & 1);
              const float sum = __int_as_float(partial[j]) - __int_as_float(magic.c[j]);
              const float scale = stages.scale(field, column);
              if constexpr (has_units(kFlush)) {
                const int unit = kBySteps ? q : 0;
                const float share = fmaf(rows.offsets[j >> 1][unit], has_offset[j & 1], pass.sums_share);
                const float rest = stages.sum(field, unit, column) * share;
                y[c][j] = fmaf(fmaf(sum, scale, rest), rows.scales[j >> 1][unit], y[c][j]);
              } else {
                y[c][j] = fmaf(sum, scale, y[c][j]);
              }
            }
          }
        }
      }
    }
    __syncthreads();
  }
  release_next_kernel();
  if (own_tile != tile) return;
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = static_cast<int>(first_row) + 8 * i;
      const int column = first_column + 8 * c + 2 * (lane & 3);
      if (row >= segment.rows) continue;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int token = p.x.per_token == 2 ? column / 2 : column + j;
        if (token >= p.x.tokens || (p.x.per_token == 2 && j == 1)) continue;
        if constexpr (kGrouped) {
          const float* const pair = &y[c][2 * i];
          finish_grouped(layer, segment, p.x, p.offset_factor, row, token,
                         p.x.per_token == 2 ? fmaf(256.0f, pair[0], pair[1]) : pair[j]);
        } else {
          const int* const pair = &sums[c][2 * i];
          finish_whole(layer, segment, p.x, row, token,
                       p.x.per_token == 2 ? int64_t{256} * pair[0] + pair[1] : pair[j]);
        }
      }
    }
  }
}

}  // namespace

void gemm(const Layer& layer, const Columns& x, const Result& result, Stream stream) {
  if (x.tokens == 0) return;
  const bool whole = layer.unit == Unit::row && !x.grouped();
  if (whole) check_whole(layer);
  int64_t blocks = 0;
  GemmParams params{};
  params.layer = layer_params(layer, result, 1, kGemmWarps * kRowTile, &blocks);
  params.x = x;
  params.offset_factor = offset_factor(params.layer, layer.active, x.per_token);
  const int64_t column_blocks = (x.count() + kGemmColumns - 1) / kGemmColumns;
  constexpr int64_t kMostColumnBlocks = 65535;
  if (column_blocks > kMostColumnBlocks) {
    throw Error(LOWBIT_UNSUPPORTED, "%lld tokens in one launch; allowed: up to %lld",
                static_cast<long long>(x.tokens),
                static_cast<long long>(kMostColumnBlocks * kGemmColumns / x.per_token));
  }
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(column_blocks));
  shape.block = dim3(kGemmThreads);
  shape.overlaps_previous = true;
  const auto kernel = whole                            ? gemm_kernel<Flush::never>
                      : layer.unit == Unit::row        ? gemm_kernel<Flush::row>
                      : layer.unit == Unit::inputs_128 ? gemm_kernel<Flush::by_128>
                                                       : gemm_kernel<Flush::by_32>;
  launch(kernel, shape, stream, params);
}

}  // namespace lowbit::cuda
