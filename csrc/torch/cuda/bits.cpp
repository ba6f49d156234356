#include "torch/cuda/bits.h"

namespace lowbit::torch_ops {

lowbit_cuda_bits describe_bits(int64_t out_features, int64_t in_features, int64_t bits, bool one_bit_digits,
                               int64_t group_size) {
  lowbit_cuda_bits weight{};
  weight.out_features = out_features;
  weight.in_features = in_features;
  weight.bits = static_cast<int32_t>(bits);
  weight.group_size = group_size;
  for (int32_t left = weight.bits; left > 0;) {
    const int32_t width = one_bit_digits || left < 2 ? 1 : left < 4 ? 2 : 4;
    weight.digits[weight.num_digits++] = width;
    left -= width;
  }
  return weight;
}

BitsShape shape_of(const Checker& check, const lowbit_cuda_bits& bits) {
  size_t bytes = 0;
  size_t count = 0;
  if (lowbit_cuda_bits_sizes(&bits, &bytes, &count) != LOWBIT_OK) check.fail(lowbit_cuda_last_error());
  const int64_t rows = ceil_div(bits.out_features, kRowTile) * kRowTile;
  return {ceil_div(static_cast<int64_t>(bytes), kWordBytes * bits.bits * bits.num_digits), rows,
          static_cast<int64_t>(count) / rows};
}

lowbit_cuda_bits describe_tiles(const Checker& check, const Tensor& tiles, int64_t out_features,
                                int64_t in_features, int64_t group_size) {
  const auto fits = [&](const lowbit_cuda_bits& weight) { return weight.num_digits == tiles.size(1); };
  if (tiles.dtype() == Dtype::kU8 && tiles.dim() == 4 && tiles.size(0) >= 1 && tiles.size(0) <= 8 &&
      tiles.size(3) == kWordBytes && tiles.contiguous()) {
    for (bool one_bit_digits : {false, true}) {
      const lowbit_cuda_bits weight =
          describe_bits(out_features, in_features, tiles.size(0), one_bit_digits, group_size);
      if (fits(weight)) return weight;
    }
  }
  check.fail(
      "tiles must be a contiguous uint8 tensor [bits, digits, words, 16], made by cuda_repack_bits; found " +
      tiles.describe());
}

}  // namespace lowbit::torch_ops
