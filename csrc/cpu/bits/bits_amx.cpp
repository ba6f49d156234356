#include <utility>

#include "cpu/bits/bits.h"
#include "cpu/bits/tile_product.h"

namespace lowbit {

// Where tiles beat what AVX-512 does, looked-up or multiplied: their time over its, for 4096 x 4096 by 128 on
// two Emerald Rapids cores, weights warm. Medians of two batches of runs, of 3 (of 7 and 8 planes 8) and of
// 9, each run the median of 31 or 11 alternating turns. Tiles are taken from where neither is above 1. One
// run in a noisier hour had 1.20, 1.10 and 1.01 for 7 planes of 6, 8 and 12 columns; batches differ by 0.1 on
// average, so a threshold is known to a column or two.
//
//   columns          4            5            6            7            8           12           16
//   1 plane     0.95, 1.04   0.76, 0.99   0.71, 0.83   0.62, 0.73   0.56, 0.73   0.42, 0.51   0.37, 0.43
//   2 planes    1.10, 1.22   0.78, 0.90   0.71, 0.85   0.69, 0.78   0.62, 0.76   0.45, 0.51   0.40, 0.41
//   3 planes    1.00, 1.06   0.94, 1.07   0.95, 0.95   0.74, 0.81   0.70, 0.83   0.60, 0.67   0.49, 0.59
//   4 planes    1.04, 1.17   0.92, 1.03   0.85, 0.96   0.75, 0.85   0.72, 0.81   0.60, 0.68   0.54, 0.63
//   5 planes    1.03, 1.14   0.93, 1.08   0.92, 0.98   0.82, 0.87   0.79, 0.88   0.72, 0.76   0.61, 0.67
//   6 planes    1.04, 1.12   0.99, 1.03   0.97, 1.00   0.84, 0.90   0.78, 0.89   0.64, 0.76   0.67, 0.69
//   7 planes    1.10, 1.19   1.04, 1.11   0.96, 1.00   0.91, 0.91   0.80, 0.90   0.77, 0.86   0.67, 0.76
//   8 planes    1.11, 1.23   1.02, 1.21   1.02, 1.22   0.90, 1.09   0.91, 1.09   0.89, 1.07   0.89, 0.96
int64_t tile_columns_amx(int active_planes) {
  return active_planes < 3 ? 5 : active_planes < 8 ? 6 : 16;
}

namespace {

bool by_tiles(int active_planes, int64_t columns) {
  return columns >= tile_columns_amx(active_planes);
}

void product(const lowbit_bits& weight, int active_planes, const Columns& x, const Epilogue& epilogue,
             int64_t tile_begin, int64_t tile_end, std::byte* work) {
  if (!by_tiles(active_planes, x.tokens * x.per_token)) {
    return kBitsAvx512.product(weight, active_planes, x, epilogue, tile_begin, tile_end, work);
  }
  [&]<int... kPlane>(std::integer_sequence<int, kPlane...>) {
    ((active_planes == kPlane + 1
          ? TileProduct<kPlane + 1>(weight, x, epilogue, work).tiles(tile_begin, tile_end)
          : void()),
     ...);
  }(std::make_integer_sequence<int, 8>());
}

void product_exact(const lowbit_bits& weight, int active_planes, const FloatColumns& x,
                   const Epilogue& epilogue, int64_t tile_begin, int64_t tile_end) {
  kBitsAvx512.product_exact(weight, active_planes, x, epilogue, tile_begin, tile_end);
}

int64_t work_bytes(int active_planes, int64_t columns) {
  return by_tiles(active_planes, columns) ? kTileWorkBytes : kBitsAvx512.work_bytes(active_planes, columns);
}

int64_t least_tiles(int active_planes, int64_t columns) {
  return by_tiles(active_planes, columns) ? 1 : kBitsAvx512.least_tiles(active_planes, columns);
}

int64_t table_bytes(int active_planes, int64_t columns, int64_t k_blocks, int64_t tiles) {
  return kBitsAvx512.table_bytes(active_planes, columns, k_blocks, tiles);
}

void build_tables(const lowbit_bits& weight, int64_t tile, const Columns& x, uint8_t* tables) {
  kBitsAvx512.build_tables(weight, tile, x, tables);
}

}  // namespace

const BitsKernels kBitsAmx = {product, product_exact, work_bytes, least_tiles, table_bytes, build_tables};

}  // namespace lowbit
