#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/bits/lookup512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

using Table = BitsTable<isa::Avx512>;

// Where looking one plane up beats multiplying its bits, in us for 4096 x 4096 on two Zen 4 cores, weights
// cold (the two figures of a column are of one run):
//
//   columns                   1      2      4      8     16    512 (scales by 128)
//   byte products          72.1   98.9    203    354    718    24,800
//   look-ups               80.8   83.6    163    334    629    21,200
//
// A single column is faster by look-up as well where its weights are in the caches (57 and 48 us).
constexpr int64_t kLookupColumns = 2;
// Tables of one tile alone cost more than they save.
constexpr int64_t kLookupTiles = 2;

bool by_lookup(int active_planes, int64_t columns) {
  return active_planes == 1 && columns >= kLookupColumns;
}

void product(const lowbit_bits& weight, int active_planes, const Columns& x, const Epilogue& epilogue,
             int64_t tile_begin, int64_t tile_end) {
  if (by_lookup(active_planes, x.tokens * x.per_token) && tile_end - tile_begin >= kLookupTiles) {
    return LookupProduct<Lookup512>(weight, x, epilogue).tiles(tile_begin, tile_end);
  }
  Table::product(weight, active_planes, x, epilogue, tile_begin, tile_end);
}

int64_t least_tiles(int active_planes, int64_t columns) {
  return by_lookup(active_planes, columns) ? LookupProduct<Lookup512>::kLeastTiles : 1;
}

}  // namespace

const BitsKernels kBitsAvx512 = {product, Table::product_exact, least_tiles};

}  // namespace lowbit
