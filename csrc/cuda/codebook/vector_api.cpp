// C entries of vector codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/matmul.h"
#include "cuda/codebook/vector.h"

namespace lowbit::cuda::codebook {
namespace {

// `packed` is codes, then fp16 entries, then their scale.
struct Packed {
  size_t halves_at, scale_at, bytes;
};

// The memory of one call. tensor: columns, then their scales; matmul: rows; else floats, then partial sums.
struct Memory {
  HalfColumns halves;
  cuda::HalfColumns rows;
  FloatColumns floats;
  float* partial;
  size_t bytes;
};

// fp16 columns hold fp16 and bf16 activations as they are; fp32 ones take two in `high`.
bool two_columns(lowbit_dtype dtype, lowbit_precision precision) {
  return dtype == LOWBIT_F32 && precision == LOWBIT_HIGH;
}

struct Vector {
  using Weight = lowbit_cuda_codebook_vector;
  static constexpr const char* kCanonical = "codes";

  static void check_shape(const Weight* weight) {
    check_not_null(weight, "weight");
    check_size(weight->out_features, weight->in_features);
    check_range(weight->num_codebooks, 1, 256, "num_codebooks");
    check_range(weight->vector_size, 1, 64, "vector_size");
    check_range(weight->in_features / weight->vector_size * weight->num_codebooks, 0, int64_t{1} << 30,
                "the number of codes of a row");
  }

  static void check_tables(const Weight& weight) {
    check_dtype(weight.dtype, "codebooks");
    check_not_null(weight.codebooks, "codebooks");
  }

  static VectorWeight shape_of(const Weight& weight) {
    VectorWeight shape{};
    shape.out_features = weight.out_features;
    shape.in_features = weight.in_features;
    shape.num_codebooks = weight.num_codebooks;
    shape.vector_size = weight.vector_size;
    return shape;
  }

  static Packed packed_of(const Weight& weight) {
    const VectorWeight shape = shape_of(weight);
    const size_t halves_at = static_cast<size_t>(shape.tiles() * shape.chunks()) * 512;
    if (!has_halves(weight.vector_size)) return {halves_at, halves_at, halves_at};
    const size_t scale_at = halves_at + size_t{2} * weight.num_codebooks * kEntries * weight.vector_size;
    return {halves_at, scale_at, scale_at + 16};
  }

  static VectorWeight weight_of(const Weight& weight) {
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

  static void repack(const Weight& weight, const uint8_t* codes, char* packed, Stream stream) {
    const Packed parts = packed_of(weight);
    repack_vector({weight_of(weight), codes, reinterpret_cast<uint4*>(packed),
                   reinterpret_cast<uint16_t*>(packed + parts.halves_at),
                   reinterpret_cast<float*>(packed + parts.scale_at)},
                  stream);
  }

  static void restore(const Weight& weight, uint8_t* codes, Stream stream) {
    restore_vector(weight_of(weight), codes, stream);
  }

  static Memory memory_of(const Plan& plan, const VectorWeight& weight, int64_t tokens, bool two,
                          void* workspace) {
    char* const base = static_cast<char*>(workspace);
    Memory memory{};
    if (plan.kernel == Kernel::tensor) {
      memory.halves = {tokens, weight.padded_inputs(), two ? 2 : 1, weight.vector_size, nullptr, nullptr};
      const size_t scales_at = aligned(sizeof(uint32_t) * memory.halves.words());
      memory.halves.values = reinterpret_cast<uint32_t*>(base);
      memory.halves.scales = reinterpret_cast<float*>(base + scales_at);
      memory.bytes = scales_at + sizeof(float) * tokens;
    } else if (plan.kernel == Kernel::matmul) {
      Staging staging{tokens, weight.in_features, 1, 0, false, Unit::row, 1.0f};
      staging.tile_rows = plan.tile_rows;
      memory.rows = layout_halves(staging, workspace, &memory.bytes);
    } else {
      size_t floats_bytes;
      memory.floats =
          layout_floats({tokens, weight.in_features, 1, 0, false, Unit::row, 1.0f}, workspace, &floats_bytes);
      memory.partial = reinterpret_cast<float*>(base + aligned(floats_bytes));
      memory.bytes = aligned(floats_bytes) + sizeof(float) * tokens * plan.ranges * weight.tiles() * kRowTile;
    }
    return memory;
  }

  // For activations of any dtype.
  static size_t workspace_bytes(const Weight& weight, const lowbit_cuda_device& device, int64_t tokens,
                                lowbit_precision precision) {
    return workspace_bytes(weight, device, tokens, precision, LOWBIT_F32);
  }
  static size_t workspace_bytes(const Weight& weight, const lowbit_cuda_device& device, int64_t tokens,
                                lowbit_precision precision, lowbit_dtype dtype) {
    const VectorWeight shape = shape_of(weight);
    const bool two = two_columns(dtype, precision);
    return most_bytes(tokens, [&](int64_t some) {
      return memory_of(choose(shape, precision, two, some, device), shape, some, two, nullptr).bytes;
    });
  }

  static std::string explain(const Weight& weight, const lowbit_cuda_device& device, int64_t tokens,
                             lowbit_precision precision, lowbit_dtype dtype) {
    const VectorWeight shape = shape_of(weight);
    const Plan plan = choose(shape, precision, two_columns(dtype, precision), tokens, device);
    const Packed packed = packed_of(weight);
    const int64_t entry_bytes = plan.kernel == Kernel::fp32 ? bytes_of(weight.dtype) : 2;
    const int64_t tables = entry_bytes * weight.num_codebooks * kEntries * weight.vector_size +
                           bytes_of(weight.dtype) * weight.out_features;
    const int64_t launches = launches_of(tokens, [&](int64_t some) {
      const Plan turn = choose(shape, precision, two_columns(dtype, precision), some, device);
      if (turn.kernel == Kernel::matmul) return matmul_launches(turn, weight.out_features);
      return turn.kernel == Kernel::tensor ? int64_t{2} : int64_t{3};
    });
    return codebook::explain(
        plan, reason(plan, shape, tokens, device), rejected_by(plan, shape, device), tokens, launches,
        {static_cast<int64_t>(packed.halves_at) * plan.passes, tables * plan.passes,
         static_cast<int64_t>(workspace_bytes(weight, device, tokens_of_turn(tokens), precision, dtype))});
  }

  static void linear(const VectorWeight& weight, const lowbit_cuda_device& device, const lowbit_input& x,
                     const lowbit_vector* bias, lowbit_precision precision, const lowbit_output& y,
                     void* workspace, Stream stream) {
    const bool two = two_columns(x.dtype, precision);
    const Plan plan = choose(weight, precision, two, x.rows, device);
    const Memory memory = memory_of(plan, weight, x.rows, two, workspace);
    const Result result = result_of(y, bias);
    if (plan.kernel == Kernel::tensor) {
      stage_halves(x, memory.halves, stream);
      product_tensor(weight, memory.halves, result, plan, stream);
    } else if (plan.kernel == Kernel::matmul) {
      stage(prologue_of(x), memory.rows, stream);
      product_matmul(weight, memory.rows, result, device, stream);
    } else {
      stage(prologue_of(x), memory.floats, stream);
      product_floats(weight, memory.floats, result, memory.partial, plan, stream);
    }
  }
};

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_codebook_vector_size(const lowbit_cuda_codebook_vector* weight,
                                                          size_t* packed_bytes) {
  return size_entry<Vector>(weight, packed_bytes);
}

extern "C" lowbit_status lowbit_cuda_repack_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                            const uint8_t* codes, void* packed,
                                                            void* stream) {
  return repack_entry<Vector>(weight, codes, packed, stream);
}

extern "C" lowbit_status lowbit_cuda_restore_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                             uint8_t* codes, void* stream) {
  return restore_entry<Vector>(weight, codes, stream);
}

extern "C" lowbit_status lowbit_cuda_codebook_vector_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_vector* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes) {
  return workspace_entry<Vector>(device, weight, tokens, precision, bytes);
}

extern "C" lowbit_status lowbit_cuda_codebook_vector_explain(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_vector* weight,
                                                             int64_t tokens, lowbit_precision precision,
                                                             lowbit_dtype activations, char* text,
                                                             size_t capacity, size_t* length) {
  return explain_entry<Vector>(device, weight, tokens, precision, activations, text, capacity, length);
}

extern "C" lowbit_status lowbit_cuda_codebook_vector_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_vector* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream) {
  return guarded([&] {
    Vector::check_shape(weight);
    Vector::check_tables(*weight);
    check_packed(weight->packed);
    check_not_null(weight->out_scales, "out_scales");
    check_linear(device, x, bias, precision, y, weight->out_features, weight->in_features);
    check_workspace(workspace, workspace_bytes,
                    Vector::workspace_bytes(*weight, *device, tokens_of_turn(x->rows), precision, x->dtype));
    const VectorWeight whole = Vector::weight_of(*weight);
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      Vector::linear(whole, *device, some_x, bias, precision, some_y, workspace, static_cast<Stream>(stream));
    });
    return LOWBIT_OK;
  });
}
