// What a block of the GEMV works on.
//
//                        split 0                split 1
//                input warp 0   1   ...         0   1   ...
//   row warp 0     tile T       T               T   T
//   row warp 1     tile T + 1   T + 1           ...
//   inputs         part 0   1   ...             ...           ranges of spans, in order
//
// A block reads each column of its range once for all its rows, so it wants many rows; the splits are what
// leaves enough blocks.
#pragma once

#include "cuda/bits/gemv.h"
#include "cuda/bits/loops.h"

namespace lowbit::cuda {

// Made before the loops and again after them, from the hardware's registers each time, so that the loops need
// not keep it.
struct BlockTask {
  int block;  // which rows and columns
  int split;  // which of their inputs
  int column_pass;
  const SegmentParams& segment;
  int first_tile;
  int turns;  // spans of a part, at most: some have one less
  WarpPlace place;
  WarpTask warp;

  LOWBIT_DEVICE BlockTask(const GemvParams& p, int row_tiles, int columns)
      : BlockTask(p, row_tiles, columns, in_register(static_cast<int>(blockIdx.x)),
                  in_register(static_cast<int>(threadIdx.x))) {}

  LOWBIT_DEVICE int first_row() const { return first_tile * kRowTile; }

 private:
  LOWBIT_DEVICE BlockTask(const GemvParams& p, int row_tiles, int columns, int block_index, int thread)
      : block(block_index / p.partition.splits),
        split(block_index % p.partition.splits),
        column_pass(block % p.column_passes),
        segment(p.layer.segments[segment_of(p.layer, block / p.column_passes)]),
        first_tile((block / p.column_passes - segment.first_block) * p.partition.row_warps * row_tiles),
        turns((p.layer.spans + p.partition.parts() - 1) / p.partition.parts()),
        place(place_of(p.partition, thread)),
        warp{p.layer,
             segment,
             0,
             column_pass * columns,
             place.lane,
             Spans::of_part(p.layer.spans, split * place.input_warps + place.input_warp,
                            p.partition.parts())} {
    // Warps of tiles behind the last one compute it once more; it is finished by the warps it belongs to.
    warp.tile = min(first_tile + place.row_warp * row_tiles, tiles_of(segment) - 1);
  }

  static LOWBIT_DEVICE WarpPlace place_of(const Partition& partition, int thread) {
    const int warp = thread / 32;
    return {warp / partition.input_warps, partition.row_warps, warp % partition.input_warps,
            partition.input_warps, thread & 31};
  }
};

}  // namespace lowbit::cuda
