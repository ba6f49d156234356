// C entries of scalar codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/matmul.h"
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/tables.h"

namespace lowbit::cuda::codebook {
namespace {

// `packed` is tiles, then digits, then row scales.
struct Packed {
  size_t digits_at, row_scales_at, bytes;
};

// The memory of one call: staged activations, then outlier sums. matmul: halves alone.
struct Memory {
  ActivationKind kind;
  Staging staging;
  size_t outliers_at, bytes;
  Activations x;
  cuda::HalfColumns halves;
};

struct Scalar {
  using Weight = lowbit_cuda_codebook_scalar;
  static constexpr const char* kCanonical = "planes";

  static void check_shape(const Weight* weight) {
    check_not_null(weight, "weight");
    check_size(weight->out_features, weight->in_features);
    check_range(weight->bits, 1, 8, "bits");
  }

  static void check_tables(const Weight& weight) {
    check_dtype(weight.tables_dtype, "tables");
    check_not_null(weight.tables, "tables");
  }

  static Packed packed_of(const Weight& weight) {
    const size_t digits_at =
        aligned(scalar_tiles_bytes(weight.out_features, weight.in_features, weight.bits));
    const size_t row_scales_at = digits_at + aligned(scalar_digits_bytes(weight.out_features, weight.bits));
    const size_t row_scales_bytes = sizeof(float) * scalar_row_scales_size(weight.out_features, weight.bits);
    return {digits_at, row_scales_at, row_scales_at + row_scales_bytes};
  }

  static ScalarWeight shape_of(const Weight& weight) {
    ScalarWeight shape{};
    shape.out_features = weight.out_features;
    shape.in_features = weight.in_features;
    shape.bits = weight.bits;
    return shape;
  }

  static ScalarWeight weight_of(const Weight& weight) {
    const Packed packed = packed_of(weight);
    const char* const base = static_cast<const char*>(weight.packed);
    ScalarWeight whole = shape_of(weight);
    whole.tiles = reinterpret_cast<const uint4*>(base);
    whole.digits = reinterpret_cast<const int8_t*>(base + packed.digits_at);
    whole.row_scales = reinterpret_cast<const float*>(base + packed.row_scales_at);
    whole.tables = weight.tables;
    whole.tables_dtype = weight.tables_dtype;
    whole.outlier_offsets = weight.outlier_offsets;
    whole.outlier_columns = weight.outlier_columns;
    whole.outlier_values = weight.outlier_values;
    whole.outlier_values_dtype = weight.outlier_values_dtype;
    return whole;
  }

  static void repack(const Weight& weight, const uint8_t* planes, char* packed, Stream stream) {
    const Packed parts = packed_of(weight);
    repack_scalar(
        {weight.out_features, weight.in_features, weight.bits, planes, weight.tables, weight.tables_dtype,
         reinterpret_cast<uint4*>(packed), reinterpret_cast<int8_t*>(packed + parts.digits_at),
         reinterpret_cast<float*>(packed + parts.row_scales_at)},
        stream);
  }

  static void restore(const Weight& weight, uint8_t* planes, Stream stream) {
    restore_scalar(weight_of(weight), planes, stream);
  }

  static Memory memory_of(const Plan& plan, const Weight& weight, int64_t tokens, lowbit_precision precision,
                          void* workspace) {
    Memory memory{};
    memory.kind = {precision, 0};
    memory.staging = {tokens, weight.in_features, 1, 0, precision == LOWBIT_FAST, Unit::row, 1.0f};
    if (plan.kernel == Kernel::matmul) {
      memory.staging.tile_rows = plan.tile_rows;
      memory.halves = layout_halves(memory.staging, workspace, &memory.bytes);
      return memory;
    }
    size_t bytes = 0;
    if (precision == LOWBIT_EXACT) {
      const FloatColumns floats = layout_floats(memory.staging, workspace, &bytes);
      memory.x.values = floats.values;
      memory.x.values_stride = floats.padded_inputs;
    } else {
      memory.x.columns = layout_columns(memory.staging, memory.kind, workspace, &bytes);
    }
    memory.outliers_at = aligned(bytes);
    const bool outliers = weight.outlier_offsets != nullptr;
    memory.bytes = memory.outliers_at + (outliers ? sizeof(float) * tokens * weight.out_features : 0);
    return memory;
  }

  static size_t workspace_bytes(const Weight& weight, const lowbit_cuda_device& device, int64_t tokens,
                                lowbit_precision precision) {
    return most_bytes(tokens, [&](int64_t some) {
      const Plan plan = choose(shape_of(weight), precision, some, device);
      return memory_of(plan, weight, some, precision, nullptr).bytes;
    });
  }

  static std::string explain(const Weight& weight, const lowbit_cuda_device& device, int64_t tokens,
                             lowbit_precision precision, lowbit_dtype) {
    const ScalarWeight shape = shape_of(weight);
    const Plan plan = choose(shape, precision, tokens, device);
    const Packed packed = packed_of(weight);
    const size_t tables = plan.kernel == Kernel::selectors
                              ? packed.bytes - packed.digits_at
                              : weight.out_features * bytes_of(weight.tables_dtype) << weight.bits;
    const int64_t launches = launches_of(tokens, [&](int64_t some) {
      const Plan turn = choose(shape, precision, some, device);
      if (turn.kernel == Kernel::matmul) return matmul_launches(turn, weight.out_features);
      return weight.outlier_offsets != nullptr ? int64_t{3} : int64_t{2};
    });
    const int64_t codes = scalar_tiles_bytes(weight.out_features, weight.in_features, weight.bits);
    return codebook::explain(
        plan, reason(plan, shape, tokens, device), rejected_by(plan, shape, device), tokens, launches,
        {codes * plan.passes, static_cast<int64_t>(tables) * plan.passes,
         static_cast<int64_t>(workspace_bytes(weight, device, tokens_of_turn(tokens), precision))});
  }

  static void linear(const Weight& weight, const lowbit_cuda_device& device, const lowbit_input& x,
                     const lowbit_vector* bias, lowbit_precision precision, const lowbit_output& y,
                     void* workspace, Stream stream) {
    const Plan plan = choose(shape_of(weight), precision, x.rows, device);
    const Memory memory = memory_of(plan, weight, x.rows, precision, workspace);
    if (plan.kernel == Kernel::matmul) {
      stage(prologue_of(x), memory.halves, stream);
      product_matmul(weight_of(weight), memory.halves, result_of(y, bias), device, stream);
      return;
    }
    if (precision == LOWBIT_EXACT) {
      size_t bytes;
      stage(prologue_of(x), layout_floats(memory.staging, workspace, &bytes), stream);
    } else {
      stage(prologue_of(x), memory.staging, memory.kind, memory.x.columns, stream);
    }
    ScalarProduct product{weight_of(weight), memory.x, x.rows, nullptr, result_of(y, bias)};
    if (weight.outlier_offsets != nullptr) {
      float* const sums = reinterpret_cast<float*>(static_cast<char*>(workspace) + memory.outliers_at);
      sum_outliers(product.weight, product.x, x.rows, sums, stream);
      product.outlier_sums = sums;
    }
    if (plan.kernel == Kernel::selectors) {
      product_selectors(product, plan, stream);
    } else {
      product_floats(product, plan, stream);
    }
  }
};

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_codebook_scalar_size(const lowbit_cuda_codebook_scalar* weight,
                                                          size_t* packed_bytes) {
  return size_entry<Scalar>(weight, packed_bytes);
}

extern "C" lowbit_status lowbit_cuda_repack_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                            const uint8_t* planes, void* packed,
                                                            void* stream) {
  return repack_entry<Scalar>(weight, planes, packed, stream);
}

extern "C" lowbit_status lowbit_cuda_restore_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                             uint8_t* planes, void* stream) {
  return restore_entry<Scalar>(weight, planes, stream);
}

extern "C" lowbit_status lowbit_cuda_codebook_scalar_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_scalar* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes) {
  return workspace_entry<Scalar>(device, weight, tokens, precision, bytes);
}

extern "C" lowbit_status lowbit_cuda_codebook_scalar_explain(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_scalar* weight,
                                                             int64_t tokens, lowbit_precision precision,
                                                             lowbit_dtype activations, char* text,
                                                             size_t capacity, size_t* length) {
  return explain_entry<Scalar>(device, weight, tokens, precision, activations, text, capacity, length);
}

extern "C" lowbit_status lowbit_cuda_codebook_scalar_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_scalar* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream) {
  return guarded([&] {
    Scalar::check_shape(weight);
    Scalar::check_tables(*weight);
    check_packed(weight->packed);
    if (weight->outlier_offsets != nullptr) check_dtype(weight->outlier_values_dtype, "outlier_values");
    check_linear(device, x, bias, precision, y, weight->out_features, weight->in_features);
    check_workspace(workspace, workspace_bytes,
                    Scalar::workspace_bytes(*weight, *device, tokens_of_turn(x->rows), precision));
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      Scalar::linear(*weight, *device, some_x, bias, precision, some_y, workspace,
                     static_cast<Stream>(stream));
    });
    return LOWBIT_OK;
  });
}
