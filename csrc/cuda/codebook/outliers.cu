// The sparse correction of scalar codebooks: one warp a row, before the product, which adds the sums.
#include "cuda/activations/reduce.h"
#include "cuda/codebook/activations.h"
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/values.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kWarps = 4;

struct Params {
  ScalarWeight weight;
  Activations x;
  int64_t tokens;
  float* sums;
};

// A lane takes every 32nd entry of the row, in ascending order, then a fixed tree adds the lanes.
__global__ void __launch_bounds__(32 * kWarps) outliers_kernel(const Params p) {
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  wait_for_previous_kernel();
  release_next_kernel();
  if (row >= p.weight.out_features) return;
  const int begin = p.weight.outlier_offsets[row], end = p.weight.outlier_offsets[row + 1];
  for (int64_t token = 0; token < p.tokens; ++token) {
    float sum = 0.0f;
    for (int i = begin + lane; i < end; i += 32) {
      const float value = load_value(p.weight.outlier_values, p.weight.outlier_values_dtype, i);
      sum = fmaf(value, load_activation(p.x, token, p.weight.outlier_columns[i]), sum);
    }
    sum = reduce_lanes<32>(sum, Sum{});
    if (lane == 0) p.sums[token * p.weight.out_features + row] = sum;
  }
}

}  // namespace

void sum_outliers(const ScalarWeight& weight, const Activations& x, int64_t tokens, float* sums,
                  Stream stream) {
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>((weight.out_features + kWarps - 1) / kWarps));
  shape.block = dim3(32 * kWarps);
  shape.overlaps_previous = true;
  launch(outliers_kernel, shape, stream, {weight, x, tokens, sums});
}

}  // namespace lowbit::cuda::codebook
