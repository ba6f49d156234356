#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {
namespace {

template <int kColumnTiles>
GemvKernel pairs_of(Form form) {
  switch (form) {
    case Form::one:
      return gemv_pairs<Form::one, kColumnTiles>;
    case Form::two:
      return gemv_pairs<Form::two, kColumnTiles>;
    case Form::four:
      return gemv_pairs<Form::four, kColumnTiles>;
    default:
      return nullptr;
  }
}

}  // namespace

GemvKernel kernel_by_128_pairs(Form form, int column_tiles) {
  return column_tiles == 2 ? pairs_of<2>(form) : pairs_of<1>(form);
}

}  // namespace lowbit::cuda
