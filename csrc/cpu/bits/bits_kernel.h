// The kernels of one instruction set: include its traits and this file, define the table with BitsTable<Isa>.
#pragma once

#include <cstdint>

#include "cpu/bits/bits.h"
#include "cpu/bits/exact.h"
#include "cpu/bits/product.h"
#include "cpu/bits/runs.h"

namespace lowbit {
namespace {

template <class Isa>
struct BitsTable {
  static void product(const lowbit_bits& weight, int active_planes, const Columns& x,
                      const Epilogue& epilogue, int64_t tile_begin, int64_t tile_end) {
    switch (active_planes) {
      case 1:
        return tiles<1>(weight, x, epilogue, tile_begin, tile_end);
      case 2:
        return tiles<2>(weight, x, epilogue, tile_begin, tile_end);
      case 3:
        return tiles<3>(weight, x, epilogue, tile_begin, tile_end);
      case 4:
        return tiles<4>(weight, x, epilogue, tile_begin, tile_end);
      case 5:
        return tiles<5>(weight, x, epilogue, tile_begin, tile_end);
      case 6:
        return tiles<6>(weight, x, epilogue, tile_begin, tile_end);
      case 7:
        return tiles<7>(weight, x, epilogue, tile_begin, tile_end);
      default:
        return tiles<8>(weight, x, epilogue, tile_begin, tile_end);
    }
  }

  static void product_exact(const lowbit_bits& weight, int active_planes, const FloatColumns& x,
                            const Epilogue& epilogue, int64_t tile_begin, int64_t tile_end) {
    using Kernel = ExactProduct<Isa>;
    const Kernel kernel(weight, active_planes, x, epilogue);
    for (int64_t tile = tile_begin; tile < tile_end; tile += Kernel::kGroupTiles) {
      kernel.tiles(tile, smaller(Kernel::kGroupTiles, tile_end - tile));
    }
  }

 private:
  template <int kPlanes>
  static void tiles(const lowbit_bits& weight, const Columns& x, const Epilogue& epilogue, int64_t tile_begin,
                    int64_t tile_end) {
    const Product<Isa, kPlanes> product(weight, x, epilogue);
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) product.tile(tile);
  }
};

}  // namespace
}  // namespace lowbit
