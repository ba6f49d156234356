// Sparse outliers of a scalar codebook in compressed rows, as the operator codebook_scalar_linear takes them
// on every device.
#pragma once

#include "torch/tensor.h"

namespace lowbit::torch_ops {

struct Outliers {
  Tensor offsets, columns, values;

  // Checks them and, where there are any, sets those fields of lowbit_codebook_scalar or its GPU twin.
  template <class Weight>
  void describe(const Checker& check, Weight& weight) const {
    check.require(bool(offsets) == bool(columns) && bool(offsets) == bool(values),
                  "outlier_offsets, outlier_columns and outlier_values belong together");
    if (!offsets) return;
    check.require(columns.dim() == 1, "outlier_columns must have one dimension");
    const int64_t count = columns.size(0);
    check.expect(offsets, "outlier_offsets", Dtype::kI32, {weight.out_features + 1});
    check.expect(columns, "outlier_columns", Dtype::kI32, {count});
    check.expect_float(values, "outlier_values", {count});
    weight.outlier_offsets = static_cast<const int32_t*>(offsets.data());
    weight.outlier_columns = static_cast<const int32_t*>(columns.data());
    weight.outlier_values = values.data();
    weight.outlier_values_dtype = c_dtype(values.dtype());
  }
};

}  // namespace lowbit::torch_ops
