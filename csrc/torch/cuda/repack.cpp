// Between the canonical tensors of a checkpoint and the layout of the GPU kernels, on the GPU.
#include "torch/cuda/repack.h"

#include "torch/cuda/bits.h"
#include "torch/cuda/device.h"

namespace lowbit::torch_ops {
namespace {

void put(StableIValue* stack, OwnedTensor& result) {
  stack[0] = reinterpret_cast<StableIValue>(result.release());
}

// Codebooks of scalars and of vectors: names, the canonical codes [C][N][size], and the C functions.

struct Scalar {
  static constexpr const char* kRepack = "cuda_repack_scalar";
  static constexpr const char* kRestore = "cuda_restore_scalar";
  static constexpr const char* kCanonical = "planes";
  static constexpr const char* kShape = "planes must be [bits, out_features, ceil(in_features / 8)]";

  static int64_t out_features(Arguments&) { return 0; }  // the tables say
  static auto describe(const Checker& check, const Tensor& tables, int64_t, int64_t in_features) {
    return describe_scalar(check, tables, in_features);
  }
  static int64_t count(const lowbit_cuda_codebook_scalar& weight) { return weight.bits; }
  static int64_t row_bytes(const lowbit_cuda_codebook_scalar& weight) {
    return ceil_div(weight.in_features, 8);
  }
  static constexpr auto* words = scalar_words;
  static constexpr auto* repack = lowbit_cuda_repack_codebook_scalar;
  static constexpr auto* restore = lowbit_cuda_restore_codebook_scalar;
};

struct Vector {
  static constexpr const char* kRepack = "cuda_repack_vector";
  static constexpr const char* kRestore = "cuda_restore_vector";
  static constexpr const char* kCanonical = "codes";
  static constexpr const char* kShape =
      "codes must be [codebooks, out_features, ceil(in_features / vector_size)]";

  static int64_t out_features(Arguments& args) { return args.integer(); }
  static auto describe(const Checker& check, const Tensor& codebooks, int64_t out_features,
                       int64_t in_features) {
    return describe_vector(check, codebooks, out_features, in_features);
  }
  static int64_t count(const lowbit_cuda_codebook_vector& weight) { return weight.num_codebooks; }
  static int64_t row_bytes(const lowbit_cuda_codebook_vector& weight) {
    return ceil_div(weight.in_features, weight.vector_size);
  }
  static constexpr auto* words = vector_words;
  static constexpr auto* repack = lowbit_cuda_repack_codebook_vector;
  static constexpr auto* restore = lowbit_cuda_restore_codebook_vector;
};

template <class Codebook>
void repack(StableIValue* stack) {
  Arguments args(stack);
  const Tensor canonical = args.tensor();
  const Tensor tables = args.tensor();
  const int64_t in_features = args.integer();

  const Checker check(Codebook::kRepack);
  const Gpu gpu(check, canonical);
  gpu.require_here({canonical, tables});
  check.require(canonical.dim() == 3, Codebook::kShape);
  const auto weight = Codebook::describe(check, tables, canonical.size(1), in_features);
  check.expect(canonical, Codebook::kCanonical, Dtype::kU8,
               {Codebook::count(weight), weight.out_features, Codebook::row_bytes(weight)});
  OwnedTensor packed(gpu.empty({Codebook::words(check, weight), kWordBytes}, Dtype::kU8));
  gpu.status(Codebook::repack(&weight, static_cast<const uint8_t*>(canonical.data()), packed.get().data(),
                              gpu.stream()));
  put(stack, packed);
}

template <class Codebook>
void restore(StableIValue* stack) {
  Arguments args(stack);
  const Tensor packed = args.tensor();
  const Tensor tables = args.tensor();
  const int64_t in_features = args.integer();
  const int64_t out_features = Codebook::out_features(args);

  const Checker check(Codebook::kRestore);
  const Gpu gpu(check, packed);
  gpu.require_here({packed, tables});
  auto weight = Codebook::describe(check, tables, out_features, in_features);
  check.expect(packed, "weight", Dtype::kU8, {Codebook::words(check, weight), kWordBytes});
  weight.packed = packed.data();
  OwnedTensor canonical(
      gpu.empty({Codebook::count(weight), weight.out_features, Codebook::row_bytes(weight)}, Dtype::kU8));
  gpu.status(Codebook::restore(&weight, static_cast<uint8_t*>(canonical.get().data()), gpu.stream()));
  put(stack, canonical);
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
  repack<Scalar>(stack);
}

void cuda_restore_scalar(StableIValue* stack, uint64_t, uint64_t) {
  restore<Scalar>(stack);
}

void cuda_repack_vector(StableIValue* stack, uint64_t, uint64_t) {
  repack<Vector>(stack);
}

void cuda_restore_vector(StableIValue* stack, uint64_t, uint64_t) {
  restore<Vector>(stack);
}

}  // namespace lowbit::torch_ops
