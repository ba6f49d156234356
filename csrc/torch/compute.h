// What every operator on the CPU does once its arguments are checked: run the kernel on rows.
#pragma once

#include <utility>

#include "torch/tape.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

// Computes y after all other checks: call(x, bias, y) runs the kernel; it is kept where a tape is recording,
// so it owns what it captures, but for the memory of tensors. `out` is the last argument of an _out operator
// and empty for a functional one.
template <typename Call>
void compute(const Checker& check, Arguments& args, const Tensor& x, const Tensor& bias, const Tensor& out,
             int64_t out_features, Call call) {
  const lowbit_vector bias_view = check.bias(bias, out_features);
  if (out) check.expect_output(out, x, out_features);
  Result y(x, out_features, out);
  if (x.rows() > 0) {
    const Input input(x);
    follow_torch_threads();
    check.status(call(&input.view(), &bias_view, &y.view()));
    if (Tape* tape = Tape::recording()) {
      if (!input.is_borrowed() || !y.is_in_place()) {
        tape->refuse("an operator's input or output is copied because of its strides");
      }
      tape->add([call = std::move(call), input_view = input.view(), bias_view, y_view = y.view()] {
        return call(&input_view, &bias_view, &y_view);
      });
    }
  }
  y.finish(args.stack());
}

}  // namespace lowbit::torch_ops
