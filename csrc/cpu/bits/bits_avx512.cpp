#include "cpu/bits/bits.h"
#include "cpu/bits/bits_kernel.h"
#include "cpu/bits/lookup512.h"
#include "cpu/bits/lookup_words512.h"
#include "cpu/isa/avx512.h"

namespace lowbit {
namespace {

using Table = BitsTable<isa::Avx512>;
using Lookups = LookupProduct<Lookup512>;
using WordLookups = LookupProduct<WordLookup512>;

// Where looking one plane up beats multiplying its bits, in us for 4096 x 4096 on two Zen 4 cores, weights
// cold (the two figures of a column are of one run):
//
//   columns                   1      2      4      8     16    512 (scales by 128)
//   byte products          69.2    115    196    360    735    24,100
//   look-ups               70.5     78    126    216    448    14,300
//
// Memory decides the time of a single column; from the caches it takes 56 and 44 us. There each thread makes
// tables once, which costs what a few tiles save (medians of one run, N x 4096, cold and warm):
//
//   tiles a thread              4           8          16          32          64
//   look-ups / products   1.00  0.91  0.98  0.84  1.00  0.80  1.01  0.79  1.00  0.78
constexpr int64_t kPayingTiles = 4;
// Tables of several columns are made for the tiles of one call. For one tile they cost more than they save;
// for two 0.93 times the products at two columns and 1.05 at more, for four 0.78 to 0.86. Calls of two tiles
// are short: one bound serves all.
constexpr int64_t kLookupTiles = 2;

bool by_lookup(int active_planes, int64_t columns) {
  return active_planes == 1 && columns > 1;
}

void product(const lowbit_bits& weight, int active_planes, const Columns& x, const Epilogue& epilogue,
             int64_t tile_begin, int64_t tile_end, std::byte* work) {
  if (x.tables != nullptr) return Lookups(weight, x, epilogue, nullptr).tiles(tile_begin, tile_end);
  if (by_lookup(active_planes, x.tokens * x.per_token) && tile_end - tile_begin >= kLookupTiles) {
    return WordLookups(weight, x, epilogue, work).tiles(tile_begin, tile_end);
  }
  Table::product(weight, active_planes, x, epilogue, tile_begin, tile_end, nullptr);
}

int64_t work_bytes(int active_planes, int64_t columns) {
  return by_lookup(active_planes, columns) ? WordLookups::work_bytes() : 0;
}

int64_t least_tiles(int active_planes, int64_t columns) {
  return by_lookup(active_planes, columns) ? WordLookups::kLeastTiles : 1;
}

int64_t table_bytes(int active_planes, int64_t columns, int64_t k_blocks, int64_t tiles) {
  return active_planes == 1 && columns == 1 && tiles >= kPayingTiles ? Lookups::table_bytes(k_blocks) : 0;
}

}  // namespace

const BitsKernels kBitsAvx512 = {product,     Table::product_exact, work_bytes,
                                 least_tiles, table_bytes,          Lookups::build_tables};

}  // namespace lowbit
