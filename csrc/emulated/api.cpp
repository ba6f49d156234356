// C entries of the emulated device itself, for the tests (tests/emulated/device.py).
#include <cstddef>

#include "cuda/error.h"
#include "emulated/buffers.h"
#include "emulated/execution.h"
#include "emulated/shared.h"

extern "C" {

// Device memory that ends (or, `at_front`, starts) at a page that no access survives. Null on failure.
LOWBIT_API void* lowbit_emulated_malloc(size_t bytes, size_t alignment, int at_front) {
  using namespace lowbit;
  void* data = nullptr;
  (void)guarded([&] {
    data = emulated::allocate(bytes, alignment, at_front != 0);
    return LOWBIT_OK;
  });
  return data;
}

LOWBIT_API lowbit_status lowbit_emulated_free(void* data) {
  using namespace lowbit;
  return guarded([&] {
    emulated::release(data);
    return LOWBIT_OK;
  });
}

// 0: threads and blocks in ascending order; 1: in descending order.
LOWBIT_API void lowbit_emulated_set_order(int descending) {
  lowbit::emulated::set_descending(descending != 0);
}

LOWBIT_API void lowbit_emulated_set_shared_limit(size_t bytes) {
  lowbit::emulated::set_shared_limit(bytes);
}

// Kernels launched so far, for tests that count them.
LOWBIT_API uint64_t lowbit_emulated_launches(void) {
  return lowbit::emulated::launch_count();
}

LOWBIT_API const char* lowbit_emulated_last_error(void) {
  return lowbit::last_error();
}

}  // extern "C"
