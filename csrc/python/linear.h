// The kernels on NumPy arrays.
#pragma once

#include "python/arrays.h"

namespace lowbit::python {

// "fast", "high" or "exact"; anything else raises ValueRangeError.
lowbit_precision precision_of(const std::string& name);

py::array signs_linear(const py::array& x, const py::array& tiles, int64_t out_features,
                       const OptionalArray& scales, int64_t group_size, const OptionalArray& router,
                       const OptionalArray& in_scales, const OptionalArray& out_scales,
                       const OptionalArray& bias, const std::string& precision);
py::array planes_linear(const py::array& x, const py::array& tiles, int64_t out_features,
                        const py::array& scales, int64_t group_size, const OptionalArray& offsets,
                        std::optional<int32_t> active_bits, int32_t activation_bits,
                        const OptionalArray& bias, const std::string& precision);

// What the products see of x: codes int32 [M, K] and scales float32 [M, groups].
py::tuple quantize_activations(const py::array& x, const std::string& precision, int32_t activation_bits);
// Gates float32 [M, experts] and z = x * (gates in_scales) float32 [M, K], before any quantisation.
py::tuple signs_prologue(const py::array& x, const OptionalArray& router, const py::array& in_scales);

}  // namespace lowbit::python
