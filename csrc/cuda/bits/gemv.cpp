#include "cuda/bits/gemv.h"

#include <algorithm>

namespace lowbit::cuda {
namespace {

GemvKernel kernel_for(const Layer& layer, bool grouped, int per_token, int column_tiles) {
  const Form form = form_of(layer);
  if (!grouped) return whole_kernel(form, column_tiles);
  if (layer.unit == Unit::row) return kernel_by_row(form, column_tiles);
  if (layer.unit == Unit::inputs_32) return kernel_by_32(form, column_tiles);
  GemvKernel const pairs = per_token == 2 ? kernel_by_128_pairs(form, column_tiles) : nullptr;
  return pairs != nullptr ? pairs : kernel_by_128(form, column_tiles);
}

}  // namespace

GemvShape gemv_shape(const Layer& layer, bool grouped, int32_t per_token, int64_t tokens,
                     const Partition& partition) {
  const int64_t count = tokens * per_token;
  GemvShape shape{};
  shape.column_tiles = count > kTileColumns && kernel_for(layer, grouped, per_token, 2) != nullptr ? 2 : 1;
  shape.kernel = kernel_for(layer, grouped, per_token, shape.column_tiles);
  const int64_t columns = kTileColumns * shape.column_tiles;
  shape.passes = static_cast<int32_t>((count + columns - 1) / columns);

  const int32_t warp_tiles = row_tiles_of_warp(form_of(layer), !grouped);
  shape.row_tiles = partition.row_warps * warp_tiles;
  shape.groups = row_blocks(layer, shape.row_tiles) * shape.passes;

  const int64_t spans = (layer.in_features + kSpanInputs - 1) / kSpanInputs;
  const int64_t turns = (spans + partition.parts() - 1) / partition.parts();
  const bool in_chunks = !grouped && form_of(layer) == Form::one;
  const int64_t chunks = in_chunks ? chunks_bytes(static_cast<int>(std::min(columns, count)),
                                                  partition.input_warps, static_cast<int>(turns))
                                   : 0;
  const int64_t sums = sizeof(int32_t) * partition.row_warps * partition.input_warps * warp_tiles *
                       shape.column_tiles * kTileSums;
  shape.shared_bytes = std::max(chunks, sums);

  if (partition.splits > 1) {
    const int64_t sum_bytes = grouped || form_of(layer) == Form::one ? 4 : 8;
    shape.partial_bytes =
        shape.groups * partition.splits * shape.row_tiles * kRowTile * (columns / per_token) * sum_bytes;
  }
  return shape;
}

void gemv(const Layer& layer, const Columns& x, const Result& result, const Partition& partition,
          Stream stream) {
  if (x.tokens == 0) return;
  const bool grouped = layer.unit != Unit::row || x.grouped();
  if (!grouped) check_whole(layer);
  const GemvShape product = gemv_shape(layer, grouped, x.per_token, x.tokens, partition);
  int64_t blocks = 0;
  GemvParams params{};
  params.layer = layer_params(layer, result, kChunkPlanes, product.row_tiles * kRowTile, &blocks);
  params.x = x;
  params.partition = partition;
  params.column_passes = product.passes;
  params.offset_factor = offset_factor(params.layer, layer.active, x.per_token);

  check_blocks(product.groups * partition.splits, x.tokens);
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(product.groups * partition.splits));
  shape.block = dim3(partition.row_warps * partition.input_warps * 32);
  shape.dynamic_shared = static_cast<size_t>(product.shared_bytes);
  shape.overlaps_previous = true;
  launch(product.kernel, shape, stream, params);
}

}  // namespace lowbit::cuda
