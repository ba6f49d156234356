// Many tokens as panels [panels][rows][width]: a value of a weight meets `width` tokens side by side, and no
// sum is across the lanes of a vector.
//
//   panel 0   x[0] of tokens 0 .. width - 1      panel 1   x[0] of tokens width .. 2 width - 1
//             x[1]                                         x[1]
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/function_ref.h"
#include "core/scratch.h"
#include "cpu/codebook/linear.h"
#include "cpu/codebook/pieces.h"

namespace lowbit::codebook {

// Tokens whose panels are made at a time: their fp32 values fit the last level cache.
constexpr int64_t kPanelBlock = 256;

// Rows that meet a panel before their sums are used: a multiple of the 12 that the widest kernel takes, and
// of the 32 that tiles take and that fill a cache line of y. Less than a line at a time would be fetched and
// written again for every tile of rows.
constexpr int64_t kPanelRows = 96;

struct Panels {
  const float* data;
  int64_t rows;    // of a panel that take part
  int64_t stride;  // floats from one panel to the next
  int64_t tokens;
  int32_t pieces = 0;             // 0: values are fp32
  const float* scales = nullptr;  // as PiecePanel has them, one panel after the other
};

// load(m, thread, values): token m in fp32 [padded(K)], padding 0, by one of call.threads threads.
using LoadToken = FunctionRef<void(int64_t m, int thread, float* values)>;

// expand(row, count, weight, stride): `count` <= kPanelRows rows from `row` on, fp32 [count][stride].
using ExpandRows = FunctionRef<void(int64_t row, int64_t count, float* weight, int64_t stride)>;

// use(row, count, panel, sums): sums [count][width] of these rows for a panel, which may be overwritten.
using UseSums = FunctionRef<void(int64_t row, int64_t count, int64_t panel, float* sums)>;

// Memory for the tokens and rows that threads work on, of up to `inputs` values.
class PanelMemory {
 public:
  PanelMemory(const Call& call, int64_t inputs, ScratchLayout* layout);

  int64_t width() const { return width_; }
  // Tokens to take at a time, and the panels they take at most.
  int64_t block() const { return block_; }
  int64_t panels(int64_t tokens) const { return (tokens + width_ - 1) / width_; }

  // Floats of a panel of so many inputs, by which it may be written as pieces.
  int64_t panel_floats(int64_t inputs) const { return padded(inputs) * width_; }

  // Panels of tokens [first, first + tokens), the last one padded with tokens of 0: fp32 [inputs][width], or
  // the call's pieces. `data` has room for panel_floats() of each.
  Panels load(std::byte* base, LoadToken load, int64_t inputs, int64_t first, int64_t tokens,
              float* data) const;

  // Rows [0, outputs) times x, by all threads.
  void multiply(std::byte* base, const Panels& x, int64_t outputs, ExpandRows expand, UseSums use) const;

 private:
  // Rows to expand at a time, of `outputs` in all.
  int64_t rows(int64_t outputs, int64_t side_by_side) const;
  // sums [rows][width] of the first `tokens` of a panel in fp32.
  void sum_segments(const PanelWeight& weight, const float* panel, int64_t tokens, float* sums,
                    double* totals) const;

  const CodebookKernels& kernels_;
  const PieceKernels* pieces_;
  int32_t token_pieces_;
  int64_t width_, block_, stride_;
  int threads_, loaders_;
  int64_t most_rows_;
  size_t tokens_at_, weight_at_, packed_at_, sums_at_, totals_at_;
};

// y for rows [row, row + count) and `tokens` tokens from `m` on: sums [count][width] * scales + bias.
void finish_panel(const Call& call, int64_t m, int64_t tokens, const float* sums, int64_t width,
                  const void* scales, lowbit_dtype scales_dtype, int64_t row, int64_t count);

}  // namespace lowbit::codebook
