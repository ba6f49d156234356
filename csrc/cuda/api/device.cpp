// C interface to what concerns no format: errors and devices.
#include "cuda/api/checks.h"
#include "cuda/error.h"

namespace lowbit::cuda {
namespace {

#ifdef LOWBIT_EMULATED

// The emulated device passes for an H100. Kernels are chosen by what a caller says, so tests may say
// otherwise.
int32_t device_count() {
  return 1;
}
lowbit_cuda_device describe(int32_t) {
  return {90, 132, nullptr, nullptr};
}

#else

int32_t device_count() {
  int count = 0;
  // No GPU and no driver is an answer, not a failure.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

int32_t attribute(cudaDeviceAttr name, int32_t ordinal) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, ordinal), "cudaDeviceGetAttribute");
  return value;
}

lowbit_cuda_device describe(int32_t ordinal) {
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor, ordinal) +
              attribute(cudaDevAttrComputeCapabilityMinor, ordinal),
          attribute(cudaDevAttrMultiProcessorCount, ordinal), nullptr, nullptr};
}

#endif

}  // namespace
}  // namespace lowbit::cuda

extern "C" {

const char* lowbit_cuda_last_error(void) {
  return lowbit::last_error();
}

lowbit_status lowbit_cuda_device_count(int32_t* count) {
  using namespace lowbit;
  return guarded([&] {
    cuda::check_not_null(count, "count");
    *count = cuda::device_count();
    return LOWBIT_OK;
  });
}

lowbit_status lowbit_cuda_get_device(int32_t ordinal, lowbit_cuda_device* device) {
  using namespace lowbit;
  return guarded([&] {
    cuda::check_not_null(device, "device");
    const int32_t count = cuda::device_count();
    if (count == 0) throw Error(LOWBIT_UNSUPPORTED, "no GPU, or no driver for it, was found");
    cuda::check_range(ordinal, 0, count - 1, "ordinal");
    *device = cuda::describe(ordinal);
    return LOWBIT_OK;
  });
}

}  // extern "C"
