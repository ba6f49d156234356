// C entries of vector codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/vector.h"

namespace lowbit::cuda::codebook {
namespace {

// `packed` is codes, then fp16 entries, then their scale.
struct Packed {
  size_t halves_at, scale_at, bytes;
};

void check_shape(const lowbit_cuda_codebook_vector* weight) {
  check_not_null(weight, "weight");
  check_size(weight->out_features, weight->in_features);
  check_range(weight->num_codebooks, 1, 256, "num_codebooks");
  check_range(weight->vector_size, 1, 64, "vector_size");
  check_range(weight->in_features / weight->vector_size * weight->num_codebooks, 0, int64_t{1} << 30,
              "the number of codes of a row");
}

void check_tables(const lowbit_cuda_codebook_vector& weight) {
  check_dtype(weight.dtype, "codebooks");
  check_not_null(weight.codebooks, "codebooks");
}

VectorWeight shape_of(const lowbit_cuda_codebook_vector& weight) {
  VectorWeight shape{};
  shape.out_features = weight.out_features;
  shape.in_features = weight.in_features;
  shape.num_codebooks = weight.num_codebooks;
  shape.vector_size = weight.vector_size;
  return shape;
}

Packed packed_of(const lowbit_cuda_codebook_vector& weight) {
  const VectorWeight shape = shape_of(weight);
  const size_t halves_at = static_cast<size_t>(shape.tiles() * shape.chunks()) * 512;
  if (!has_halves(weight.vector_size)) return {halves_at, halves_at, halves_at};
  const size_t scale_at = halves_at + size_t{2} * weight.num_codebooks * kEntries * weight.vector_size;
  return {halves_at, scale_at, scale_at + 16};
}

VectorWeight weight_of(const lowbit_cuda_codebook_vector& weight) {
  const Packed packed = packed_of(weight);
  const char* const base = static_cast<const char*>(weight.packed);
  VectorWeight whole = shape_of(weight);
  whole.codes = reinterpret_cast<const uint4*>(base);
  whole.halves = reinterpret_cast<const uint4*>(base + packed.halves_at);
  whole.halves_scale = reinterpret_cast<const float*>(base + packed.scale_at);
  whole.codebooks = weight.codebooks;
  whole.out_scales = weight.out_scales;
  whole.dtype = weight.dtype;
  return whole;
}

// The memory of one call. tensor: columns, then their scales; else floats, then partial sums.
struct Plan {
  bool tensor;
  HalfColumns halves;
  FloatColumns floats;
  float* partial;
  size_t bytes;
};

// fp16 columns hold fp16 and bf16 activations as they are; fp32 ones take two in `high`.
Plan plan_of(const lowbit_cuda_device& device, const VectorWeight& weight, int64_t tokens, bool two_columns,
             lowbit_precision precision, void* workspace) {
  char* const base = static_cast<char*>(workspace);
  Plan plan{};
  plan.tensor = precision != LOWBIT_EXACT && tensor_fits(weight, device.architecture);
  if (plan.tensor) {
    plan.halves = {tokens, weight.padded_inputs(), two_columns ? 2 : 1, weight.vector_size, nullptr, nullptr};
    const size_t scales_at = aligned(sizeof(uint32_t) * plan.halves.words());
    plan.halves.values = reinterpret_cast<uint32_t*>(base);
    plan.halves.scales = reinterpret_cast<float*>(base + scales_at);
    plan.bytes = scales_at + sizeof(float) * tokens;
  } else {
    size_t floats_bytes;
    plan.floats =
        layout_floats({tokens, weight.in_features, 1, 0, false, Unit::row, 1.0f}, workspace, &floats_bytes);
    plan.partial = reinterpret_cast<float*>(base + aligned(floats_bytes));
    plan.bytes =
        aligned(floats_bytes) + sizeof(float) * tokens * floats_partials(weight, device.multiprocessors);
  }
  return plan;
}

bool two_columns(lowbit_dtype dtype, lowbit_precision precision) {
  return dtype == LOWBIT_F32 && precision == LOWBIT_HIGH;
}

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_codebook_vector_size(const lowbit_cuda_codebook_vector* weight,
                                                          size_t* packed_bytes) {
  return guarded([&] {
    check_shape(weight);
    check_not_null(packed_bytes, "packed_bytes");
    *packed_bytes = packed_of(*weight).bytes;
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_repack_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                            const uint8_t* codes, void* packed,
                                                            void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_tables(*weight);
    check_not_null(codes, "codes");
    check_packed(packed);
    const Packed parts = packed_of(*weight);
    char* const base = static_cast<char*>(packed);
    repack_vector({weight_of(*weight), codes, reinterpret_cast<uint4*>(base),
                   reinterpret_cast<uint16_t*>(base + parts.halves_at),
                   reinterpret_cast<float*>(base + parts.scale_at)},
                  static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_restore_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                             uint8_t* codes, void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_packed(weight->packed);
    check_not_null(codes, "codes");
    restore_vector(weight_of(*weight), codes, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_vector_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_vector* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes) {
  return guarded([&] {
    check_shape(weight);
    check_query(device, tokens, precision, bytes);
    *bytes = plan_of(*device, shape_of(*weight), tokens_of_turn(tokens), precision == LOWBIT_HIGH, precision,
                     nullptr)
                 .bytes;
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_vector_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_vector* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_tables(*weight);
    check_packed(weight->packed);
    check_not_null(weight->out_scales, "out_scales");
    check_linear(device, x, bias, precision, y, weight->out_features, weight->in_features);
    const VectorWeight whole = weight_of(*weight);
    const bool two = two_columns(x->dtype, precision);
    check_workspace(workspace, workspace_bytes,
                    plan_of(*device, whole, tokens_of_turn(x->rows), two, precision, nullptr).bytes);
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      const Plan plan = plan_of(*device, whole, some_x.rows, two, precision, workspace);
      const Result result = result_of(some_y, bias);
      if (plan.tensor) {
        stage_halves(some_x, plan.halves, static_cast<Stream>(stream));
        product_tensor(whole, plan.halves, result, *device, static_cast<Stream>(stream));
      } else {
        stage(prologue_of(some_x), plan.floats, static_cast<Stream>(stream));
        product_floats(whole, plan.floats, result, plan.partial, device->multiprocessors,
                       static_cast<Stream>(stream));
      }
    });
    return LOWBIT_OK;
  });
}
