#include "cuda/bits/gemv_kernel.h"

namespace lowbit::cuda {

GemvKernel kernel_by_32(Form form, int column_tiles) {
  if (column_tiles == 2) return nullptr;
  switch (form) {
    case Form::one:
      return gemv_grouped<Form::one, 1, true>;
    case Form::two:
      return gemv_grouped<Form::two, 1, true>;
    case Form::four:
      return gemv_grouped<Form::four, 1, true>;
    case Form::mixed:
      return gemv_grouped<Form::mixed, 1, true>;
    case Form::planes:
      return gemv_grouped<Form::planes, 1, true>;
  }
  return nullptr;
}

}  // namespace lowbit::cuda
