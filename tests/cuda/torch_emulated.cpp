// The torch operators of the GPU kernels, on the emulated device and CPU tensors, in the namespace
// lowbit_emulated. The functions of libtorch_cuda that they call are replaced by ones that have nothing to
// do.
#include "torch/cuda/repack.h"
#include "torch/cuda/shim.h"
#include "torch/registration.h"

extern "C" {

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* owning_result) {
  *owning_result = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) {
  return 0;
}
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

}  // extern "C"

namespace lowbit::torch_ops {
namespace {

bool register_all() {
  const Registry registry("lowbit_emulated", "CPU", "tests/cuda/torch_emulated.cpp");
  registry.define_operators();
  registry.implement_operators();
  for (const Layout& layout : kLayouts) {
    registry.define(std::string(layout.name) + layout.signature);
    registry.implement(layout.name, layout.kernel);
  }
  return true;
}

const bool registered = register_all();

}  // namespace
}  // namespace lowbit::torch_ops
