#include "torch/bits.h"

namespace lowbit::torch_ops {

lowbit_bits check_bits(const Checker& check, const Tensor& tiles, const Tensor& scales, const Tensor& offsets,
                       int64_t num_tiles, int64_t planes, int64_t in_features, int64_t group_size) {
  if (group_size != -1 && (group_size <= 0 || group_size % LOWBIT_BLOCK_INPUTS != 0)) {
    check.fail("group_size must be -1 or a positive multiple of 32; found " + std::to_string(group_size));
  }
  const int64_t groups = group_size == -1 ? 1 : ceil_div(in_features, group_size);
  check.expect(tiles, "tiles", Dtype::kU8,
               {num_tiles, planes, ceil_div(in_features, LOWBIT_BLOCK_INPUTS), LOWBIT_TILE_ROWS, 4});
  lowbit_bits bits{};
  bits.out_features = num_tiles * LOWBIT_TILE_ROWS;
  bits.in_features = in_features;
  bits.planes = static_cast<int32_t>(planes);
  bits.tiles = static_cast<const uint8_t*>(tiles.data());
  bits.group_size = group_size;
  if (scales) {
    check.expect_float(scales, "scales", {num_tiles, groups, LOWBIT_TILE_ROWS});
    bits.scales = scales.data();
    bits.scales_dtype = c_dtype(scales.dtype());
  }
  if (offsets) {
    check.expect(offsets, "offsets", Dtype::kI16, {num_tiles, groups, LOWBIT_TILE_ROWS});
    bits.offsets = static_cast<const int16_t*>(offsets.data());
  }
  return bits;
}

}  // namespace lowbit::torch_ops
