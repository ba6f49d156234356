// The arguments of the operators as they come off the stack, in the order of their schemas: the same for
// every device. `out` is empty for a functional operator.
#pragma once

#include <vector>

#include "torch/mix.h"
#include "torch/outliers.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {

// Members are initialised in the order in which they are declared.

struct SignsArguments {
  Tensor x, tiles, scales;
  Mix mix;
  Tensor bias;
  std::vector<int64_t> segments;
  int64_t in_features, out_features, group_size, precision;
  Tensor out;

  SignsArguments(Arguments& args, bool has_out)
      : x(args.tensor()),
        tiles(args.tensor()),
        scales(args.optional_tensor()),
        mix{args.optional_tensor(), args.optional_tensor(), args.optional_tensor()},
        bias(args.optional_tensor()),
        segments(args.integers()),
        in_features(args.integer()),
        out_features(args.integer()),
        group_size(args.integer()),
        precision(args.integer()),
        out(has_out ? args.tensor() : Tensor()) {}
};

struct PlanesArguments {
  Tensor x, tiles, scales, offsets, bias;
  int64_t in_features, out_features, group_size, active_bits, activation_bits, precision;
  Tensor out;

  PlanesArguments(Arguments& args, bool has_out)
      : x(args.tensor()),
        tiles(args.tensor()),
        scales(args.tensor()),
        offsets(args.optional_tensor()),
        bias(args.optional_tensor()),
        in_features(args.integer()),
        out_features(args.integer()),
        group_size(args.integer()),
        active_bits(args.integer()),
        activation_bits(args.integer()),
        precision(args.integer()),
        out(has_out ? args.tensor() : Tensor()) {}
};

struct ScalarArguments {
  Tensor x, weight, tables;
  Outliers outliers;
  Tensor bias;
  int64_t in_features, precision;
  Tensor out;

  ScalarArguments(Arguments& args, bool has_out)
      : x(args.tensor()),
        weight(args.tensor()),
        tables(args.tensor()),
        outliers{args.optional_tensor(), args.optional_tensor(), args.optional_tensor()},
        bias(args.optional_tensor()),
        in_features(args.integer()),
        precision(args.integer()),
        out(has_out ? args.tensor() : Tensor()) {}
};

struct VectorArguments {
  Tensor x, weight, codebooks, out_scales, bias;
  int64_t in_features, precision;
  Tensor out;

  VectorArguments(Arguments& args, bool has_out)
      : x(args.tensor()),
        weight(args.tensor()),
        codebooks(args.tensor()),
        out_scales(args.tensor()),
        bias(args.optional_tensor()),
        in_features(args.integer()),
        precision(args.integer()),
        out(has_out ? args.tensor() : Tensor()) {}
};

}  // namespace lowbit::torch_ops
