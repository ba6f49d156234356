#include "cpu/codebook/expanded.h"

namespace lowbit::codebook {

lowbit_status expanded_linear(const Call& call, LoadToken load, ExpandRows expand, const void* scales,
                              lowbit_dtype scales_dtype, const float* x_scales) {
  thread_local Scratch scratch;
  const int64_t inputs = call.x.cols;
  ScratchLayout layout;
  const PanelMemory memory(call, inputs, &layout);
  const size_t x_at = layout.add<float>(memory.panels(memory.block()) * memory.panel_floats(inputs));
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const x = at<float>(base, x_at);
  const int64_t width = memory.width();

  for (int64_t m = 0; m < call.x.rows; m += memory.block()) {
    const int64_t tokens = std::min(memory.block(), call.x.rows - m);
    Panels panels = memory.load(base, load, inputs, m, tokens, x);
    panels.scales = x_scales;
    const auto finish = [&](int64_t row, int64_t count, int64_t panel, const float* sums) {
      const int64_t first = panel * width;
      finish_panel(call, m + first, tokens - first, sums, width, scales, scales_dtype, row, count);
    };
    memory.multiply(base, panels, call.y.cols, expand, finish);
  }
  return LOWBIT_OK;
}

}  // namespace lowbit::codebook
