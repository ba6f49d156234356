// Products of one-bit digits with bit planes of the activations: AND and popcount on the tensor cores. The
// words of the tiles are the operand as they are; nothing is unpacked.
#include "cuda/bits/epilogue.h"
#include "cuda/bits/loops.h"
#include "cuda/bits/meeting.h"

namespace lowbit::cuda {
namespace {

struct B1Params {
  LayerParams layer;
  Planes x;
  int32_t row_warps;
  int32_t input_warps;
  int32_t column_passes;
  int32_t tokens_per_pass;  // all planes of a token meet in one block
};

// The pair of words of a column for the four steps of a superblock, as this lane takes them.
template <int kColumnTiles>
class PlanePointers {
 public:
  LOWBIT_DEVICE PlanePointers(const Planes& x, int set, int first_column, int lane) {
    const int64_t last = x.count() - 1;
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int64_t column = first_column + 8 * c + (lane >> 2);
      tiles_[c] = in_register(x.words_of(set, column < last ? column : last) + 2 * (lane & 3));
    }
  }

  LOWBIT_DEVICE void begin_pass() const { wait_for_previous_kernel(); }
  LOWBIT_DEVICE void end_pass() const {}
  LOWBIT_DEVICE void next_span(int span) { span_ = span; }

  LOWBIT_DEVICE void load(int tile, uint32_t (&b)[kSteps][2]) const {
    constexpr int kSpanWords = kSpanInputs / 32;
    const uint32_t* const words = tiles_[tile] + int64_t{span_} * kSpanWords;
#pragma unroll
    for (int q = 0; q < kSteps; ++q) {
      const uint2 pair = load_cached(reinterpret_cast<const uint2*>(words + 8 * q));
      b[q][0] = pair.x;
      b[q][1] = pair.y;
    }
  }

 private:
  const uint32_t* tiles_[kColumnTiles];
  int span_ = 0;
};

// sums = 2 sums + those of a digit.
template <int kColumnTiles>
LOWBIT_DEVICE void b1_pass(const WarpTask& task, const Planes& x, const Pass& pass,
                           int (&sums)[1][kColumnTiles][4]) {
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[0][c][i] *= 2;
  }
  PlanePointers<kColumnTiles> planes(x, task.segment.set, task.first_column, task.lane);
  walk_spans<1, false, false, 1>(task, pass, planes, [&](int, const TileWords<1>& weights) {
    const Words& words = weights.tile[0];
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      uint32_t b[kSteps][2];
      planes.load(c, b);
#pragma unroll
      for (int q = 0; q < kSteps; ++q) {
        const uint32_t a[4] = {words.step[q].x, words.step[q].y, words.step[q].z, words.step[q].w};
        mma_b1_and(sums[0][c], a, b[q]);
      }
    }
  });
}

template <int kColumnTiles>
__global__ void __launch_bounds__(kMaxWarps * 32, 1) gemv_b1(const B1Params p) {
  using Meeting = MeetingPoint<1, kColumnTiles>;
  LOWBIT_SHARED(int, shared, kMaxWarps * kColumnTiles * kTileSums);
  const int block = blockIdx.x / p.column_passes, column_pass = blockIdx.x % p.column_passes;
  const SegmentParams& segment = p.layer.segments[segment_of(p.layer, block)];
  const int first_tile = (block - segment.first_block) * p.row_warps;
  const int first_token = column_pass * p.tokens_per_pass;
  const int warp = threadIdx.x / 32;
  const WarpTask task{p.layer,
                      segment,
                      min(first_tile + warp / p.input_warps, tiles_of(segment) - 1),
                      first_token * p.x.per_token,
                      static_cast<int>(threadIdx.x & 31),
                      Spans::of_part(p.layer.spans, warp % p.input_warps, p.input_warps)};
  int sums[1][kColumnTiles][4] = {};
  for (int i = 0; i < p.layer.num_passes; ++i) b1_pass(task, p.x, p.layer.passes[i], sums);
  Meeting::leave(sums, shared);
  release_next_kernel();
  const int first_row = first_tile * kRowTile;
  const BlockResults results{p.row_warps * kRowTile, p.tokens_per_pass, segment.rows - first_row,
                             p.x.tokens - first_token};
  results.for_each([&](int row, int token) {
    const int64_t sum = Meeting::total(shared, p.input_warps, row, [&](const auto& sums) {
      int64_t of_planes = 0;
      for (int plane = 0; plane < p.x.per_token; ++plane) {
        of_planes += int64_t{p.x.plane_factor(plane)} * sums(token * p.x.per_token + plane);
      }
      return of_planes;
    });
    const int64_t y_token = first_token + token;
    const int64_t offset = p.layer.code_offset + row_offset(segment, first_row + row);
    const int64_t codes = p.x.totals[segment.set * p.x.tokens + y_token];
    const float value = static_cast<float>(p.layer.code_factor * sum + offset * codes);
    finish(p.layer, segment, p.x.gates_of(segment.set, y_token), y_token, first_row + row,
           value * p.x.scales[segment.set * p.x.tokens + y_token] *
               row_scale(p.layer, segment, first_row + row));
  });
}

}  // namespace

void b1_gemv(const Layer& layer, const Planes& x, const Result& result, const Partition& partition,
             Stream stream) {
  if (x.tokens == 0) return;
  check_whole(layer);
  const Form form = form_of(layer);
  if (layer.unit != Unit::row || (form != Form::one && form != Form::planes)) {
    throw Error(LOWBIT_UNSUPPORTED, "bit planes multiply active digits of one bit with one scale a row only");
  }
  int64_t blocks = 0;
  B1Params params{};
  params.layer = layer_params(layer, result, 1, partition.row_warps * kRowTile, &blocks);
  params.x = x;
  params.row_warps = partition.row_warps;
  params.input_warps = partition.input_warps;
  const int columns = x.count() <= 8 ? 8 : 16;
  params.tokens_per_pass = columns / x.per_token;
  params.column_passes =
      static_cast<int32_t>((x.tokens + params.tokens_per_pass - 1) / params.tokens_per_pass);
  check_blocks(blocks * params.column_passes, x.tokens);
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks * params.column_passes));
  shape.block = dim3(partition.row_warps * partition.input_warps * 32);
  shape.overlaps_previous = true;
  launch(columns == 8 ? gemv_b1<1> : gemv_b1<2>, shape, stream, params);
}

}  // namespace lowbit::cuda
