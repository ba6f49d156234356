// C entries of scalar codebooks.
#include "cuda/codebook/call.h"
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/tables.h"

namespace lowbit::cuda::codebook {
namespace {

// `packed` is tiles, then digits, then row scales.
struct Packed {
  size_t digits_at, row_scales_at, bytes;
};

Packed packed_of(const lowbit_cuda_codebook_scalar& weight) {
  const size_t digits_at = aligned(scalar_tiles_bytes(weight.out_features, weight.in_features, weight.bits));
  const size_t row_scales_at = digits_at + aligned(scalar_digits_bytes(weight.out_features, weight.bits));
  const size_t row_scales_bytes = sizeof(float) * scalar_row_scales_size(weight.out_features, weight.bits);
  return {digits_at, row_scales_at, row_scales_at + row_scales_bytes};
}

ScalarWeight weight_of(const lowbit_cuda_codebook_scalar& weight) {
  const Packed packed = packed_of(weight);
  const char* const base = static_cast<const char*>(weight.packed);
  return {weight.out_features,
          weight.in_features,
          weight.bits,
          reinterpret_cast<const uint4*>(base),
          reinterpret_cast<const int8_t*>(base + packed.digits_at),
          reinterpret_cast<const float*>(base + packed.row_scales_at),
          weight.tables,
          weight.tables_dtype,
          weight.outlier_offsets,
          weight.outlier_columns,
          weight.outlier_values,
          weight.outlier_values_dtype};
}

void check_shape(const lowbit_cuda_codebook_scalar* weight) {
  check_not_null(weight, "weight");
  check_size(weight->out_features, weight->in_features);
  check_range(weight->bits, 1, 8, "bits");
}

void check_tables(const lowbit_cuda_codebook_scalar& weight) {
  check_dtype(weight.tables_dtype, "tables");
  check_not_null(weight.tables, "tables");
}

// The memory of one call: staged activations, then outlier sums.
struct Plan {
  ActivationKind kind;
  Staging staging;
  size_t outliers_at, bytes;
  Activations x;
};

Plan plan_of(const lowbit_cuda_codebook_scalar& weight, int64_t tokens, lowbit_precision precision,
             void* workspace) {
  Plan plan{};
  plan.kind = {precision, 0};
  plan.staging = {tokens, weight.in_features, 1, 0, precision == LOWBIT_FAST, Unit::row, 1.0f};
  size_t bytes = 0;
  if (precision == LOWBIT_EXACT) {
    const FloatColumns floats = layout_floats(plan.staging, workspace, &bytes);
    plan.x.values = floats.values;
    plan.x.values_stride = floats.padded_inputs;
  } else {
    plan.x.columns = layout_columns(plan.staging, plan.kind, workspace, &bytes);
  }
  plan.outliers_at = aligned(bytes);
  const bool outliers = weight.outlier_offsets != nullptr;
  plan.bytes = plan.outliers_at + (outliers ? sizeof(float) * tokens * weight.out_features : 0);
  return plan;
}

void linear(const lowbit_cuda_codebook_scalar& weight, int32_t multiprocessors, const lowbit_input& x,
            const lowbit_vector* bias, lowbit_precision precision, const lowbit_output& y, void* workspace,
            Stream stream) {
  const Plan plan = plan_of(weight, x.rows, precision, workspace);
  if (precision == LOWBIT_EXACT) {
    size_t bytes;
    stage(prologue_of(x), layout_floats(plan.staging, workspace, &bytes), stream);
  } else {
    stage(prologue_of(x), plan.staging, plan.kind, plan.x.columns, stream);
  }
  ScalarProduct product{weight_of(weight), plan.x, x.rows, nullptr, result_of(y, bias)};
  if (weight.outlier_offsets != nullptr) {
    float* const sums = reinterpret_cast<float*>(static_cast<char*>(workspace) + plan.outliers_at);
    sum_outliers(product.weight, product.x, x.rows, sums, stream);
    product.outlier_sums = sums;
  }
  if (precision != LOWBIT_EXACT && selectors_fit(product.weight)) {
    product_selectors(product, multiprocessors, stream);
  } else {
    product_floats(product, stream);
  }
}

}  // namespace
}  // namespace lowbit::cuda::codebook

using namespace lowbit;
using namespace lowbit::cuda;
using namespace lowbit::cuda::codebook;

extern "C" lowbit_status lowbit_cuda_codebook_scalar_size(const lowbit_cuda_codebook_scalar* weight,
                                                          size_t* packed_bytes) {
  return guarded([&] {
    check_shape(weight);
    check_not_null(packed_bytes, "packed_bytes");
    *packed_bytes = packed_of(*weight).bytes;
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_repack_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                            const uint8_t* planes, void* packed,
                                                            void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_tables(*weight);
    check_not_null(planes, "planes");
    check_packed(packed);
    const Packed parts = packed_of(*weight);
    char* const base = static_cast<char*>(packed);
    repack_scalar({weight->out_features, weight->in_features, weight->bits, planes, weight->tables,
                   weight->tables_dtype, reinterpret_cast<uint4*>(base),
                   reinterpret_cast<int8_t*>(base + parts.digits_at),
                   reinterpret_cast<float*>(base + parts.row_scales_at)},
                  static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_restore_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                             uint8_t* planes, void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_packed(weight->packed);
    check_not_null(planes, "planes");
    restore_scalar(weight_of(*weight), planes, static_cast<Stream>(stream));
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_scalar_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_scalar* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes) {
  return guarded([&] {
    check_shape(weight);
    check_query(device, tokens, precision, bytes);
    *bytes = plan_of(*weight, tokens_of_turn(tokens), precision, nullptr).bytes;
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_cuda_codebook_scalar_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_scalar* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream) {
  return guarded([&] {
    check_shape(weight);
    check_tables(*weight);
    check_packed(weight->packed);
    if (weight->outlier_offsets != nullptr) check_dtype(weight->outlier_values_dtype, "outlier_values");
    check_linear(device, x, bias, precision, y, weight->out_features, weight->in_features);
    check_workspace(workspace, workspace_bytes,
                    plan_of(*weight, tokens_of_turn(x->rows), precision, nullptr).bytes);
    for_turns(*x, *y, [&](const lowbit_input& some_x, const lowbit_output& some_y) {
      linear(*weight, device->multiprocessors, some_x, bias, precision, some_y, workspace,
             static_cast<Stream>(stream));
    });
    return LOWBIT_OK;
  });
}
