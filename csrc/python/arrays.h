// NumPy arrays as the C interface sees them, and the package's typed errors.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "lowbit.h"

namespace lowbit::python {

namespace py = pybind11;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Raises lowbit.errors.<type>(message, found=found, allowed=allowed).
[[noreturn]] void raise(const char* type, const std::string& message, const py::object& found = py::none(),
                        const py::object& allowed = py::none());

// Raises lowbit.errors.FormatError with lowbit_last_error() unless the status is LOWBIT_OK.
void check(lowbit_status status);

// The dtype of a float32 or float16 array; anything else raises DtypeError.
lowbit_dtype float_dtype(const py::array& array, const char* name);

// An expected size that may be anything.
inline constexpr int64_t kAny = -1;

// Raises ShapeError unless the array has this shape and is C-contiguous.
void expect_shape(const py::array& array, const char* name, std::initializer_list<int64_t> shape);
void expect_floats(const py::array& array, const char* name, std::initializer_list<int64_t> shape);
template <typename T>
void expect(const py::array& array, const char* name, std::initializer_list<int64_t> shape) {
  if (!py::isinstance<py::array_t<T>>(array)) {
    raise("DtypeError", std::string(name) + " has the wrong dtype", array.dtype(), py::dtype::of<T>());
  }
  expect_shape(array, name, shape);
}

using OptionalArray = std::optional<py::array>;

}  // namespace lowbit::python
