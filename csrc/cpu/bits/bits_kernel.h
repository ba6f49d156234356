// The kernels of one instruction set: include its traits and this file, define the table with BitsTable<Isa>.
#pragma once

#include <cstdint>

#include "cpu/bits/bits.h"
#include "cpu/bits/exact.h"
#include "cpu/bits/product.h"
#include "cpu/bits/runs.h"

namespace lowbit {
namespace {

// OnePlane: how a single plane is multiplied.
template <class Isa, class OnePlane = Product<Isa, 1>>
struct BitsTable {
  static void product(const lowbit_bits& weight, int active_planes, const Columns& x,
                      const Epilogue& epilogue, int64_t tile_begin, int64_t tile_end, std::byte* work) {
    switch (active_planes) {
      case 1:
        return OnePlane(weight, x, epilogue, work).tiles(tile_begin, tile_end);
      case 2:
        return Product<Isa, 2>(weight, x, epilogue).tiles(tile_begin, tile_end);
      case 3:
        return Product<Isa, 3>(weight, x, epilogue).tiles(tile_begin, tile_end);
      case 4:
        return Product<Isa, 4>(weight, x, epilogue).tiles(tile_begin, tile_end);
      case 5:
        return Product<Isa, 5>(weight, x, epilogue).tiles(tile_begin, tile_end);
      case 6:
        return Product<Isa, 6>(weight, x, epilogue).tiles(tile_begin, tile_end);
      case 7:
        return Product<Isa, 7>(weight, x, epilogue).tiles(tile_begin, tile_end);
      default:
        return Product<Isa, 8>(weight, x, epilogue).tiles(tile_begin, tile_end);
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

  static int64_t work_bytes(int active_planes, int64_t) {
    return active_planes == 1 ? OnePlane::work_bytes() : 0;
  }

  static int64_t least_tiles(int active_planes, int64_t) {
    return active_planes == 1 ? OnePlane::kLeastTiles : 1;
  }

  static int64_t table_bytes(int active_planes, int64_t columns, int64_t k_blocks, int64_t) {
    return active_planes == 1 && columns == 1 ? OnePlane::table_bytes(k_blocks) : 0;
  }

  static constexpr BitsKernels kKernels = {product,     product_exact, work_bytes,
                                           least_tiles, table_bytes,   OnePlane::build_tables};
};

}  // namespace
}  // namespace lowbit
