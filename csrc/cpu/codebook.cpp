// C interface of the family `codebook`: weights whose channels, scalars or vectors come from tables.
#include <algorithm>

#include "core/cpu_features.h"
#include "core/error.h"
#include "core/half.h"
#include "cpu/checks.h"
#include "cpu/codebook/linear.h"
#include "cpu/codebook/pieces.h"
#include "lowbit.h"

namespace lowbit {
namespace {

lowbit_status check_call(const lowbit_input* x, const lowbit_vector* bias, lowbit_precision precision,
                         const lowbit_output* y, int64_t out_features, int64_t in_features) {
  if (const lowbit_status bad = check_range(out_features, 1, INT64_MAX, "out_features")) return bad;
  if (const lowbit_status bad = check_range(in_features, 1, INT64_MAX, "in_features")) return bad;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, LOWBIT_EXACT, "precision")) return bad;
  if (const lowbit_status bad = check_input(x, in_features)) return bad;
  if (const lowbit_status bad = check_output(y, x->rows, out_features)) return bad;
  return check_bias(bias, out_features);
}

template <class Label>
int64_t largest_label(const lowbit_codebook_channel& weight) {
  const auto* const labels = static_cast<const Label*>(weight.labels);
  const int64_t count = weight.axis == 0 ? weight.out_features : weight.in_features;
  Label largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, labels[i]);
  return largest;
}

// Labels are indices into sums, where a wrong one would read or write anywhere. This pass over them is short
// beside the products, and every token makes another one.
lowbit_status check_labels(const lowbit_codebook_channel& weight) {
  const int64_t largest = weight.label_bytes == 1   ? largest_label<uint8_t>(weight)
                          : weight.label_bytes == 2 ? largest_label<uint16_t>(weight)
                                                    : largest_label<uint32_t>(weight);
  return check_range(largest, 0, weight.clusters - 1, "the largest label");
}

lowbit_status check_channel(const lowbit_codebook_channel& weight) {
  if (const lowbit_status bad = check_range(weight.axis, 0, 1, "axis")) return bad;
  if (const lowbit_status bad = check_range(weight.clusters, 1, int64_t{1} << 32, "clusters")) return bad;
  if (weight.label_bytes != 4) {
    if (const lowbit_status bad = check_range(weight.label_bytes, 1, 2, "label_bytes")) return bad;
  }
  if (const lowbit_status bad = check_range(weight.rank, 0, INT32_MAX, "rank")) return bad;
  if (const lowbit_status bad = check_dtype(weight.dtype, "weight")) return bad;
  if (const lowbit_status bad = check_not_null(weight.weight, "weight")) return bad;
  if (const lowbit_status bad = check_not_null(weight.labels, "labels")) return bad;
  if (const lowbit_status bad = check_labels(weight)) return bad;
  if (weight.rank == 0) return LOWBIT_OK;
  if (const lowbit_status bad = check_not_null(weight.low_rank_out, "low_rank_out")) return bad;
  return check_not_null(weight.low_rank_in, "low_rank_in");
}

// As with labels: offsets and columns are indices.
lowbit_status check_outliers(const lowbit_codebook_scalar& weight) {
  const int32_t* const offsets = weight.outlier_offsets;
  bool ascending = offsets[0] == 0;
  for (int64_t n = 0; n < weight.out_features; ++n) ascending &= offsets[n] <= offsets[n + 1];
  if (!ascending) return fail(LOWBIT_INVALID_ARGUMENT, "outlier_offsets must ascend from 0");
  const int32_t count = offsets[weight.out_features];
  if (count == 0) return LOWBIT_OK;
  if (const lowbit_status bad = check_not_null(weight.outlier_columns, "outlier_columns")) return bad;
  if (const lowbit_status bad = check_not_null(weight.outlier_values, "outlier_values")) return bad;
  // The sign bit of c, or of last - c, tells that c is out of range: cheaper in vectors than comparisons.
  const auto last = static_cast<uint32_t>(std::min<int64_t>(weight.in_features - 1, INT32_MAX));
  uint32_t outside = 0;
  for (int32_t i = 0; i < count; ++i) {
    const auto column = static_cast<uint32_t>(weight.outlier_columns[i]);
    outside |= column | (last - column);
  }
  if (outside >> 31 == 0) return LOWBIT_OK;
  return fail(LOWBIT_INVALID_ARGUMENT, "outlier_columns must be 0 to %u", last);
}

lowbit_status check_scalar(const lowbit_codebook_scalar& weight) {
  if (const lowbit_status bad = check_range(weight.bits, 1, 8, "bits")) return bad;
  if (const lowbit_status bad = check_dtype(weight.tables_dtype, "tables")) return bad;
  if (const lowbit_status bad = check_not_null(weight.weight, "weight")) return bad;
  if (const lowbit_status bad = check_not_null(weight.tables, "tables")) return bad;
  if (weight.outlier_offsets == nullptr) return LOWBIT_OK;
  if (const lowbit_status bad = check_dtype(weight.outlier_values_dtype, "outlier_values")) return bad;
  return check_outliers(weight);
}

lowbit_status check_vector(const lowbit_codebook_vector& weight) {
  if (const lowbit_status bad = check_range(weight.num_codebooks, 1, 256, "num_codebooks")) return bad;
  if (const lowbit_status bad = check_range(weight.vector_size, 1, 64, "vector_size")) return bad;
  if (const lowbit_status bad = check_dtype(weight.dtype, "codebooks")) return bad;
  if (const lowbit_status bad = check_not_null(weight.codes, "codes")) return bad;
  if (const lowbit_status bad = check_not_null(weight.codebooks, "codebooks")) return bad;
  return check_not_null(weight.out_scales, "out_scales");
}

// linear(call) with the kernels of this machine, for activations of so many pieces: 0 keeps those of fp32.
template <class Linear>
lowbit_status run(const lowbit_input& x, const lowbit_vector* bias, const lowbit_output& y,
                  int32_t token_pieces, Linear linear) {
  Isa isa;
  if (const lowbit_status bad = active_isa(&isa)) return bad;
  const CodebookKernels& kernels = codebook_kernels(isa);
  return linear(codebook::Call{kernels, activation_kernels(isa), x, bias, y,
                               token_pieces > 0 ? kernels.pieces : nullptr, token_pieces});
}

}  // namespace
}  // namespace lowbit

using namespace lowbit;

extern "C" lowbit_status lowbit_codebook_channel_linear(const lowbit_codebook_channel* weight,
                                                        const lowbit_input* x, const lowbit_vector* bias,
                                                        lowbit_precision precision, const lowbit_output* y) {
  if (const lowbit_status bad = check_not_null(weight, "weight")) return bad;
  if (const lowbit_status bad =
          check_call(x, bias, precision, y, weight->out_features, weight->in_features)) {
    return bad;
  }
  if (const lowbit_status bad = check_channel(*weight)) return bad;
  return run(*x, bias, *y, codebook::channel_pieces(x->dtype, precision, weight->dtype, weight->axis),
             [&](const codebook::Call& call) { return codebook::channel_linear(*weight, call); });
}

extern "C" lowbit_status lowbit_codebook_scalar_linear(const lowbit_codebook_scalar* weight,
                                                       const lowbit_input* x, const lowbit_vector* bias,
                                                       lowbit_precision precision, const lowbit_output* y) {
  if (const lowbit_status bad = check_not_null(weight, "weight")) return bad;
  if (const lowbit_status bad =
          check_call(x, bias, precision, y, weight->out_features, weight->in_features)) {
    return bad;
  }
  if (const lowbit_status bad = check_scalar(*weight)) return bad;
  return run(*x, bias, *y, codebook::scalar_pieces(precision, weight->tables_dtype),
             [&](const codebook::Call& call) {
               return codebook::scalar_linear(*weight, precision == LOWBIT_FAST, call);
             });
}

extern "C" lowbit_status lowbit_codebook_vector_linear(const lowbit_codebook_vector* weight,
                                                       const lowbit_input* x, const lowbit_vector* bias,
                                                       lowbit_precision precision, const lowbit_output* y) {
  if (const lowbit_status bad = check_not_null(weight, "weight")) return bad;
  if (const lowbit_status bad =
          check_call(x, bias, precision, y, weight->out_features, weight->in_features)) {
    return bad;
  }
  if (const lowbit_status bad = check_vector(*weight)) return bad;
  return run(*x, bias, *y, codebook::vector_pieces(x->dtype, precision, weight->dtype),
             [&](const codebook::Call& call) {
               return codebook::vector_linear(*weight, precision == LOWBIT_FAST, call);
             });
}
