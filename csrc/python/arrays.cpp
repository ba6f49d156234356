#include "python/arrays.h"

namespace lowbit::python {
namespace {

py::tuple shape_of(const py::array& array) {
  return py::tuple(array.attr("shape"));
}

}  // namespace

void raise(const char* type, const std::string& message, const py::object& found, const py::object& allowed) {
  const py::object error = py::module_::import("lowbit.errors").attr(type);
  const py::object instance = error(message, py::arg("found") = found, py::arg("allowed") = allowed);
  PyErr_SetObject(error.ptr(), instance.ptr());
  throw py::error_already_set();
}

void check(lowbit_status status) {
  if (status == LOWBIT_OK) return;
  raise(status == LOWBIT_INVALID_ARGUMENT ? "FormatError" : "BackendError", lowbit_last_error());
}

lowbit_dtype float_dtype(const py::array& array, const char* name) {
  if (py::isinstance<py::array_t<float>>(array)) return LOWBIT_F32;
  const py::dtype dtype = array.dtype();
  if (dtype.kind() == 'f' && dtype.itemsize() == 2 && dtype.byteorder() == '=') return LOWBIT_F16;
  raise("DtypeError", std::string(name) + " has the wrong dtype", array.dtype(), py::str("float32, float16"));
}

void expect_shape(const py::array& array, const char* name, std::initializer_list<int64_t> shape) {
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (int64_t size : shape) {
    if (same && size != kAny && array.shape(axis) != size) same = false;
    ++axis;
  }
  if (!same) {
    py::list allowed;
    for (int64_t size : shape)
      allowed.append(size == kAny ? py::object(py::str("any")) : py::object(py::int_(size)));
    raise("ShapeError", std::string(name) + " has the wrong shape", shape_of(array), allowed);
  }
  if (!(array.flags() & py::array::c_style)) {
    raise("ShapeError", std::string(name) + " must be C-contiguous", py::tuple(array.attr("strides")));
  }
}

void expect_floats(const py::array& array, const char* name, std::initializer_list<int64_t> shape) {
  float_dtype(array, name);
  expect_shape(array, name, shape);
}

}  // namespace lowbit::python
