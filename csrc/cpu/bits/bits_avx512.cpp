#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/bits/lookup_product_avx512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

using Table = BitsTable<isa::Avx512>;

// Where looking one plane up beats multiplying its bits, in us for 4096 x 4096 on two Zen 4 cores, weights
// cold:
//
//   columns                   1      2      4      8     16    512 (scales by 128)
//   byte products           65.2   93.9    179    354    718    24,800
//   look-ups                76.8    105    183    334    629    21,200
//
// Tables of one tile alone cost more than they save.
constexpr int64_t kLookupColumns = 8;
constexpr int64_t kLookupTiles = 2;

void product(const lowbit_bits& weight, int active_planes, const Columns& x, const Epilogue& epilogue,
             int64_t tile_begin, int64_t tile_end) {
  if (active_planes == 1 && x.tokens * x.per_token >= kLookupColumns &&
      tile_end - tile_begin >= kLookupTiles) {
    return LookupProduct(weight, x, epilogue).tiles(tile_begin, tile_end);
  }
  Table::product(weight, active_planes, x, epilogue, tile_begin, tile_end);
}

}  // namespace

const BitsKernels kBitsAvx512 = {product, Table::product_exact};

}  // namespace lowbit
