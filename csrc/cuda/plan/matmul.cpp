#include "cuda/plan/matmul.h"

#include <algorithm>

#include "cuda/activations/columns.h"
#include "cuda/bits/bits.h"

namespace lowbit::cuda {
namespace {

// As many rows as give the caller's matrix product two tiles of its result, 128 x 128, for every
// multiprocessor, so that its last turn costs little; and no more than fit this memory.
constexpr int64_t kResultTile = 128;
constexpr int64_t kResultTiles = 2;
constexpr int64_t kTileBytes = 64 << 20;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

int64_t matmul_tile_rows(int64_t in_features, int64_t rows, int64_t tokens,
                         const lowbit_cuda_device& device) {
  const int64_t wanted = ceil_div(kResultTiles * device.multiprocessors, ceil_div(tokens, kResultTile));
  const int64_t row_bytes = ceil_div(in_features, kHalfAlign) * kHalfAlign * 2;
  const int64_t allowed = std::max<int64_t>(kTileBytes / (row_bytes * kResultTile), 1);
  return std::min(std::min(wanted, allowed) * kResultTile, ceil_div(rows, kRowTile) * kRowTile);
}

}  // namespace lowbit::cuda
