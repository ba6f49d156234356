#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {
namespace {

template <int kColumnTiles>
GemvKernel kernel_of(Form form) {
  switch (form) {
    case Form::one:
      return gemv_by_row<Form::one, kColumnTiles>;
    case Form::two:
      return gemv_by_row<Form::two, kColumnTiles>;
    case Form::four:
      return gemv_by_row<Form::four, kColumnTiles>;
    default:
      return nullptr;
  }
}

}  // namespace

GemvKernel kernel_by_row(Form form, int column_tiles) {
  if (column_tiles == 2) return kernel_of<2>(form);
  if (form == Form::mixed) return gemv_by_row<Form::mixed, 1>;
  if (form == Form::planes) return gemv_by_row<Form::planes, 1>;
  return kernel_of<1>(form);
}

}  // namespace lowbit::cuda
