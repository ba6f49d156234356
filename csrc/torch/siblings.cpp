// lowbit::siblings_linear: checks and unpacks the arguments, then calls lowbit_siblings_linear.
#include "torch/bits.h"
#include "torch/compute.h"
#include "torch/mix.h"
#include "torch/operators.h"

namespace lowbit::torch_ops {
namespace {

// The tensors of one kind that the layers have; an empty list is the same as one without any.
class Optional {
 public:
  Optional(const Checker& check, std::vector<Tensor> tensors, size_t layers) : tensors_(std::move(tensors)) {
    check.require(tensors_.empty() || tensors_.size() == layers, "lists must have one element per layer");
  }
  Tensor operator[](size_t layer) const { return tensors_.empty() ? Tensor() : tensors_[layer]; }

 private:
  std::vector<Tensor> tensors_;
};

int64_t planes_of(const Checker& check, const Tensor& tiles) {
  const int64_t planes = tiles.dim() == 5 ? tiles.size(1) : 0;
  check.require(planes >= 1 && planes <= 8,
                "tiles must be [tiles, planes, blocks, 64, 4] with 1 to 8 planes");
  return planes;
}

}  // namespace

template <bool kOut>
void siblings_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Checker check("siblings_linear");
  Arguments args(stack);
  const Tensor x = args.tensor();
  const std::vector<Tensor> tiles = args.tensors();
  const size_t layers = tiles.size();
  const Optional scales(check, args.optional_tensors(), layers);
  const Optional offsets(check, args.optional_tensors(), layers);
  const Optional router(check, args.optional_tensors(), layers);
  const Optional in_scales(check, args.optional_tensors(), layers);
  const Optional out_scales(check, args.optional_tensors(), layers);
  const Optional bias(check, args.optional_tensors(), layers);
  const int64_t in_features = args.integer();
  const std::vector<int64_t> out_features = args.integers();
  const std::vector<int64_t> group_sizes = args.integers();
  const int64_t active_bits = args.integer();
  const int64_t activation_bits = args.integer();
  const int64_t precision_number = args.integer();
  const Tensor out = kOut ? args.tensor() : Tensor();

  check.expect_input(x, in_features);
  check.require(layers >= 1 && out_features.size() == layers && group_sizes.size() == layers,
                "tiles, out_features and group_sizes must have one element per layer");
  check.require(active_bits >= 1 && active_bits <= 8, "active_bits must be between 1 and 8");
  check.require(activation_bits >= 0 && activation_bits <= 8, "activation_bits must be between 0 and 8");
  const lowbit_precision precision = check.precision(precision_number);

  std::vector<lowbit_signs> parts(layers);
  std::vector<lowbit_vector> biases(layers);
  int64_t all_outputs = 0;
  for (size_t i = 0; i < layers; ++i) {
    lowbit_signs& part = parts[i];
    check.require(out_features[i] >= 1, "out_features must be positive");
    part.bits =
        check_bits(check, tiles[i], scales[i], offsets[i], ceil_div(out_features[i], LOWBIT_TILE_ROWS),
                   planes_of(check, tiles[i]), in_features, group_sizes[i]);
    part.bits.out_features = out_features[i];
    const Mix mix{router[i], in_scales[i], out_scales[i]};
    mix.check(check, 1, in_features, out_features[i]);
    part.experts = static_cast<int32_t>(mix.experts());
    part.dtype = mix.dtype();
    if (mix.experts() > 0) {
      part.router = mix.router_of(0, in_features);
      part.in_scales = mix.in_scales_of(0, in_features);
      part.out_scales = mix.out_scales_from(0);
      part.out_scales_stride = out_features[i];
    }
    biases[i] = check.bias(bias[i], out_features[i]);
    all_outputs += out_features[i];
  }

  compute(check, args, x, Tensor(), out, all_outputs,
          [parts = std::move(parts), biases = std::move(biases), active = static_cast<int32_t>(active_bits),
           activation = static_cast<int32_t>(activation_bits), precision](auto* input, auto*, auto* y) {
            return lowbit_siblings_linear(parts.data(), biases.data(), static_cast<int32_t>(parts.size()),
                                          active, input, activation, precision, y);
          });
}

LOWBIT_INSTANTIATE(siblings_linear)

}  // namespace lowbit::torch_ops
