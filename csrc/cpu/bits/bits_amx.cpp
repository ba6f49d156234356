#include <utility>

#include "cpu/bits/bits.h"
#include "cpu/bits/tile_product.h"

namespace lowbit {

// Where tiles beat what AVX-512 does, looked-up or multiplied: their time over its, for 4096 x 4096 on two
// Emerald Rapids cores, weights warm. Medians of 11 alternating turns; of seven planes of two such runs.
//
//   columns          4            5            6            8           12           16
//   1 plane        0.96         0.83         0.71         0.58         0.44         0.35
//   2 planes       1.21         0.89         0.75         0.73         0.51         0.44
//   4 planes       1.07         0.94         0.88         0.73         0.62         0.57
//   6 planes       1.01         0.93         0.96         0.81         0.71         0.59
//   7 planes    1.05, 1.29   1.07, 1.29   0.92, 1.20   0.87, 1.10   0.69, 1.01   0.63, 0.86
//   8 planes                                              1.26         1.10         0.95
int64_t tile_columns_amx(int active_planes) {
  return active_planes < 7 ? 5 : active_planes < 8 ? 8 : 16;
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
