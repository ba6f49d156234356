// Between the canonical tensors of a checkpoint and the layout of the GPU kernels, on the GPU.
#include "torch/cuda/repack.h"

#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"

namespace lowbit::torch_ops {
namespace {

void put(StableIValue* stack, OwnedTensor& result) {
  stack[0] = reinterpret_cast<StableIValue>(result.release());
}

}  // namespace

void cuda_repack_bits(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor planes = args.tensor();
  const int64_t in_features = args.integer();
  const bool one_bit_digits = args.integer() != 0;

  const Checker check("cuda_repack_bits");
  const Gpu gpu(check, planes);
  check.require(planes.dim() == 3 && planes.size(0) >= 1 && planes.size(0) <= 8,
                "planes must be [bits, out_features, ceil(in_features / 8)] with 1 to 8 bits");
  check.expect(planes, "planes", Dtype::kU8, {planes.size(0), planes.size(1), ceil_div(in_features, 8)});
  const lowbit_cuda_bits weight =
      describe_bits(planes.size(1), in_features, planes.size(0), one_bit_digits, -1);
  const BitsShape shape = shape_of(check, weight);
  OwnedTensor tiles(gpu.empty({weight.bits, weight.num_digits, shape.words, kWordBytes}, Dtype::kU8));
  gpu.status(lowbit_cuda_repack_bits(&weight, static_cast<const uint8_t*>(planes.data()), tiles.get().data(),
                                     gpu.stream()));
  put(stack, tiles);
}

void cuda_restore_bits(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor tiles = args.tensor();
  const int64_t in_features = args.integer();
  const int64_t out_features = args.integer();

  const Checker check("cuda_restore_bits");
  const Gpu gpu(check, tiles);
  const lowbit_cuda_bits weight = describe_tiles(check, tiles, out_features, in_features, -1);
  const BitsShape shape = shape_of(check, weight);
  check.expect(tiles, "tiles", Dtype::kU8, {weight.bits, weight.num_digits, shape.words, kWordBytes});
  OwnedTensor planes(gpu.empty({weight.bits, out_features, ceil_div(in_features, 8)}, Dtype::kU8));
  gpu.status(lowbit_cuda_restore_bits(&weight, tiles.data(), static_cast<uint8_t*>(planes.get().data()),
                                      gpu.stream()));
  put(stack, planes);
}

void cuda_repack_scalar(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor planes = args.tensor();
  const Tensor tables = args.tensor();
  const int64_t in_features = args.integer();

  const Checker check("cuda_repack_scalar");
  const Gpu gpu(check, planes);
  gpu.require_here({planes, tables});
  const lowbit_cuda_codebook_scalar weight = describe_scalar(check, tables, in_features);
  check.expect(planes, "planes", Dtype::kU8, {weight.bits, weight.out_features, ceil_div(in_features, 8)});
  OwnedTensor packed(gpu.empty({scalar_words(check, weight), kWordBytes}, Dtype::kU8));
  gpu.status(lowbit_cuda_repack_codebook_scalar(&weight, static_cast<const uint8_t*>(planes.data()),
                                                packed.get().data(), gpu.stream()));
  put(stack, packed);
}

void cuda_restore_scalar(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor packed = args.tensor();
  const Tensor tables = args.tensor();
  const int64_t in_features = args.integer();

  const Checker check("cuda_restore_scalar");
  const Gpu gpu(check, packed);
  gpu.require_here({packed, tables});
  lowbit_cuda_codebook_scalar weight = describe_scalar(check, tables, in_features);
  check.expect(packed, "weight", Dtype::kU8, {scalar_words(check, weight), kWordBytes});
  weight.packed = packed.data();
  OwnedTensor planes(gpu.empty({weight.bits, weight.out_features, ceil_div(in_features, 8)}, Dtype::kU8));
  gpu.status(
      lowbit_cuda_restore_codebook_scalar(&weight, static_cast<uint8_t*>(planes.get().data()), gpu.stream()));
  put(stack, planes);
}

void cuda_repack_vector(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor codes = args.tensor();
  const Tensor codebooks = args.tensor();
  const int64_t in_features = args.integer();

  const Checker check("cuda_repack_vector");
  const Gpu gpu(check, codes);
  gpu.require_here({codes, codebooks});
  check.require(codes.dim() == 3, "codes must be [codebooks, out_features, ceil(in_features / vector_size)]");
  const lowbit_cuda_codebook_vector weight = describe_vector(check, codebooks, codes.size(1), in_features);
  check.expect(codes, "codes", Dtype::kU8,
               {weight.num_codebooks, weight.out_features, ceil_div(in_features, weight.vector_size)});
  OwnedTensor packed(gpu.empty({vector_words(check, weight), kWordBytes}, Dtype::kU8));
  gpu.status(lowbit_cuda_repack_codebook_vector(&weight, static_cast<const uint8_t*>(codes.data()),
                                                packed.get().data(), gpu.stream()));
  put(stack, packed);
}

void cuda_restore_vector(StableIValue* stack, uint64_t, uint64_t) {
  Arguments args(stack);
  const Tensor packed = args.tensor();
  const Tensor codebooks = args.tensor();
  const int64_t in_features = args.integer();
  const int64_t out_features = args.integer();

  const Checker check("cuda_restore_vector");
  const Gpu gpu(check, packed);
  gpu.require_here({packed, codebooks});
  lowbit_cuda_codebook_vector weight = describe_vector(check, codebooks, out_features, in_features);
  check.expect(packed, "weight", Dtype::kU8, {vector_words(check, weight), kWordBytes});
  weight.packed = packed.data();
  OwnedTensor codes(
      gpu.empty({weight.num_codebooks, out_features, ceil_div(in_features, weight.vector_size)}, Dtype::kU8));
  gpu.status(
      lowbit_cuda_restore_codebook_vector(&weight, static_cast<uint8_t*>(codes.get().data()), gpu.stream()));
  put(stack, codes);
}

}  // namespace lowbit::torch_ops
