// A C entry that launches one kernel of the tests.
#pragma once

#include "cuda/launch.h"

#define LOWBIT_ENTRY extern "C" LOWBIT_API lowbit_status

namespace lowbit::cuda {

template <class... P>
lowbit_status run(void (*kernel)(P...), const Shape& shape, std::type_identity_t<P>... arguments) {
  return guarded([&] {
    launch(kernel, shape, Stream{}, arguments...);
    return LOWBIT_OK;
  });
}

}  // namespace lowbit::cuda
