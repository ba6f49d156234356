#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {
namespace {

template <int kColumnTiles>
GemvKernel kernel_of(Form form) {
  switch (form) {
    case Form::one:
      return gemv_grouped<Form::one, kColumnTiles, false>;
    case Form::two:
      return gemv_grouped<Form::two, kColumnTiles, false>;
    case Form::four:
      return gemv_grouped<Form::four, kColumnTiles, false>;
    default:
      return nullptr;
  }
}

}  // namespace

GemvKernel kernel_by_128(Form form, int column_tiles) {
  if (column_tiles == 2) return kernel_of<2>(form);
  if (form == Form::mixed) return gemv_grouped<Form::mixed, 1, false>;
  if (form == Form::planes) return gemv_grouped<Form::planes, 1, false>;
  return kernel_of<1>(form);
}

}  // namespace lowbit::cuda
