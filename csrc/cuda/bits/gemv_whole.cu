#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {
namespace {

template <int kColumnTiles>
GemvKernel kernel_of(Form form) {
  switch (form) {
    case Form::one:
      return gemv_whole<Form::one, kColumnTiles>;
    case Form::two:
      return gemv_whole<Form::two, kColumnTiles>;
    case Form::four:
      return gemv_whole<Form::four, kColumnTiles>;
    case Form::mixed:
      return gemv_whole<Form::mixed, kColumnTiles>;
    case Form::planes:
      return gemv_whole<Form::planes, kColumnTiles>;
  }
  return nullptr;
}

}  // namespace

GemvKernel whole_kernel(Form form, int column_tiles) {
  return column_tiles == 1 ? kernel_of<1>(form) : kernel_of<2>(form);
}

}  // namespace lowbit::cuda
