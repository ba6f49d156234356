// C interface to the layout of bits: sizes, and repacking from the canonical tensors and back.
#include "cuda/api/checks.h"
#include "cuda/bits/bits.h"
#include "cuda/error.h"

namespace lowbit::cuda {
namespace {

Digits digits_of(const lowbit_cuda_bits& bits) {
  Digits digits{bits.num_digits, {}};
  for (int32_t d = 0; d < bits.num_digits; ++d) digits.widths[d] = bits.digits[d];
  return digits;
}

// Runs body(weight) when the weight's description and both pointers are in order.
template <class Body>
lowbit_status repack(const lowbit_cuda_bits* weight, const void* source, const char* source_name,
                     const void* target, const char* target_name, const Body& body) {
  return guarded([&] {
    check_not_null(weight, "weight");
    check_layout(*weight, "weight");
    check_not_null(source, source_name);
    check_not_null(target, target_name);
    body(*weight);
    return LOWBIT_OK;
  });
}

int64_t scale_bytes(const lowbit_cuda_bits& weight) {
  check_dtype(weight.scales_dtype, "weight");
  return weight.scales_dtype == LOWBIT_F32 ? 4 : 2;
}

}  // namespace
}  // namespace lowbit::cuda

extern "C" {

using lowbit::cuda::Stream;

lowbit_status lowbit_cuda_bits_sizes(const lowbit_cuda_bits* weight, size_t* tiles_bytes,
                                     size_t* scales_count) {
  using namespace lowbit::cuda;
  return repack(weight, tiles_bytes, "tiles_bytes", scales_count, "scales_count",
                [&](const lowbit_cuda_bits& w) {
                  *tiles_bytes = static_cast<size_t>(tile_bytes(w.out_features, w.in_features, digits_of(w)));
                  *scales_count = static_cast<size_t>(row_tiles(w.out_features) * kRowTile *
                                                      unit_count(w.in_features, unit_of(w.group_size)));
                });
}

lowbit_status lowbit_cuda_repack_bits(const lowbit_cuda_bits* weight, const uint8_t* planes, void* tiles,
                                      void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, planes, "planes", tiles, "tiles", [&](const lowbit_cuda_bits& w) {
    repack_tiles(planes, w.out_features, w.in_features, digits_of(w), static_cast<uint4*>(tiles),
                 static_cast<Stream>(stream));
  });
}

lowbit_status lowbit_cuda_restore_bits(const lowbit_cuda_bits* weight, const void* tiles, uint8_t* planes,
                                       void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, tiles, "tiles", planes, "planes", [&](const lowbit_cuda_bits& w) {
    unpack_tiles(static_cast<const uint4*>(tiles), w.out_features, w.in_features, digits_of(w), planes,
                 static_cast<Stream>(stream));
  });
}

lowbit_status lowbit_cuda_repack_scales(const lowbit_cuda_bits* weight, const void* scales, void* repacked,
                                        void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, scales, "scales", repacked, "repacked", [&](const lowbit_cuda_bits& w) {
    repack_groups(scales, scale_bytes(w), w.out_features, w.in_features, w.group_size, repacked,
                  static_cast<Stream>(stream));
  });
}

lowbit_status lowbit_cuda_restore_scales(const lowbit_cuda_bits* weight, const void* repacked, void* scales,
                                         void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, repacked, "repacked", scales, "scales", [&](const lowbit_cuda_bits& w) {
    unpack_groups(repacked, scale_bytes(w), w.out_features, w.in_features, w.group_size, scales,
                  static_cast<Stream>(stream));
  });
}

lowbit_status lowbit_cuda_repack_offsets(const lowbit_cuda_bits* weight, const int16_t* offsets,
                                         int16_t* repacked, void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, offsets, "offsets", repacked, "repacked", [&](const lowbit_cuda_bits& w) {
    repack_groups(offsets, sizeof(int16_t), w.out_features, w.in_features, w.group_size, repacked,
                  static_cast<Stream>(stream));
  });
}

lowbit_status lowbit_cuda_restore_offsets(const lowbit_cuda_bits* weight, const int16_t* repacked,
                                          int16_t* offsets, void* stream) {
  using namespace lowbit::cuda;
  return repack(weight, repacked, "repacked", offsets, "offsets", [&](const lowbit_cuda_bits& w) {
    unpack_groups(repacked, sizeof(int16_t), w.out_features, w.in_features, w.group_size, offsets,
                  static_cast<Stream>(stream));
  });
}

}  // extern "C"
