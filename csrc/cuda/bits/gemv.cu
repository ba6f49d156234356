#include "cuda/bits/gemv.h"

namespace lowbit::cuda {

void gemv(const Layer& layer, const Columns& x, const Result& result, const Partition& partition,
          Stream stream) {
  if (x.tokens == 0) return;
  const bool whole = layer.unit == Unit::row && !x.grouped();
  if (whole) check_whole(layer);
  int64_t blocks = 0;
  GemvParams params{};
  params.layer = layer_params(layer, result, kChunkPlanes, partition.row_warps * kRowTile, &blocks);
  params.x = x;
  params.row_warps = partition.row_warps;
  params.input_warps = partition.input_warps;
  params.offset_factor = offset_factor(params.layer, layer.active, x.per_token);

  const Form form = form_of(layer);
  const auto kernel_for = [&](int column_tiles) {
    if (whole) return whole_kernel(form, column_tiles);
    return layer.unit == Unit::inputs_32 ? kernel_by_32(form, column_tiles)
                                         : kernel_by_128(form, column_tiles);
  };
  int columns = x.count() <= 8 ? 8 : 16;
  GemvKernel kernel = kernel_for(columns / 8);
  if (kernel == nullptr) {
    columns = 8;
    kernel = kernel_for(1);
  }
  params.column_passes = static_cast<int32_t>((x.count() + columns - 1) / columns);
  check_blocks(blocks * params.column_passes, x.tokens);
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks * params.column_passes));
  shape.block = dim3(partition.row_warps * partition.input_warps * 32);
  shape.overlaps_previous = true;
  launch(kernel, shape, stream, params);
}

}  // namespace lowbit::cuda
