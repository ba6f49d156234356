#include "cpu/codebook/panels.h"

#include "core/balanced_for.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kLine = 16;  // values of a cache line

// Inputs whose products are added up in fp32; rounding in sums of more would leave the bound of `exact`.
constexpr int64_t kSegment = 1 << 14;

// Expanded rows that stay near while all panels come by.
constexpr int64_t kNearValues = 1 << 17;

// Rows that the kernels take side by side.
constexpr int64_t kTileRows = 12;
static_assert(kPanelRows % kTileRows == 0);

// Pieces a thread must have for threads to end together.
constexpr int64_t kLeastPieces = 4;

// Tokens [first, first + count) as a panel [inputs][width], by way of `rows` [width][stride].
void load_panel(LoadToken load, int thread, int64_t inputs, int64_t first, int64_t count, int64_t width,
                float* rows, int64_t stride, float* panel) {
  for (int64_t t = 0; t < count; ++t) load(first + t, thread, rows + t * stride);
  std::fill(rows + count * stride, rows + width * stride, 0.0f);
  // By cache lines of rows: those of the panel that they land in stay in the first level cache.
  for (int64_t k = 0; k < inputs; k += kLine) {
    const int64_t last = std::min(k + kLine, inputs);
    for (int64_t t = 0; t < width; ++t) {
      for (int64_t i = k; i < last; ++i) panel[i * width + t] = rows[t * stride + i];
    }
  }
}

}  // namespace

PanelMemory::PanelMemory(const Call& call, int64_t inputs, ScratchLayout* layout)
    : width_(call.kernels.panel_tokens),
      block_(std::min(kPanelBlock, panels(call.x.rows) * width_)),
      // Most rows are a multiple of 4 KB long; as far apart they would meet in one set of the first level
      // cache.
      stride_(padded(inputs) + kLine),
      threads_(static_cast<int>(std::min<int64_t>(get_num_threads(), Pieces::kMaxThreads))),
      loaders_(static_cast<int>(std::min<int64_t>(threads_, block_ / width_))),
      tokens_at_(layout->add<float>(loaders_ * width_ * stride_)),
      weight_at_(layout->add<float>(threads_ * kPanelRows * stride_)),
      sums_at_(layout->add<float>(threads_ * kPanelRows * width_)),
      totals_at_(layout->add<double>(threads_ * kPanelRows * width_)) {}

void PanelMemory::load(std::byte* base, LoadToken load, int64_t inputs, int64_t first, int64_t tokens,
                       float* panel) const {
  parallel_for(panels(tokens), loaders_, [&](int64_t begin, int64_t end, int thread) {
    float* const rows = at<float>(base, tokens_at_) + thread * width_ * stride_;
    for (int64_t p = begin; p < end; ++p) {
      load_panel(load, thread, inputs, first + p * width_, std::min(width_, tokens - p * width_), width_,
                 rows, stride_, panel + p * width_ * inputs);
    }
  });
}

int64_t PanelMemory::rows(int64_t outputs) const {
  const int64_t most = std::min(kNearValues / stride_, outputs / (kLeastPieces * threads_));
  return std::clamp(most / kTileRows * kTileRows, kTileRows, kPanelRows);
}

void PanelMemory::multiply(std::byte* base, const CodebookKernels& kernels, const Panels& x, int64_t outputs,
                           ExpandRows expand, UseSums use) const {
  const int64_t most = rows(outputs);
  balanced_for((outputs + most - 1) / most, threads_, 1, [&](Pieces& pieces, int thread) {
    float* const weight = at<float>(base, weight_at_) + thread * kPanelRows * stride_;
    float* const sums = at<float>(base, sums_at_) + thread * kPanelRows * width_;
    double* const totals = at<double>(base, totals_at_) + thread * kPanelRows * width_;
    for (int64_t piece, last; pieces.next(&piece, &last);) {
      for (; piece < last; ++piece) {
        const int64_t row = piece * most, count = std::min(most, outputs - row);
        expand(row, count, weight, stride_);
        for (int64_t p = 0; p < panels(x.tokens); ++p) {
          const float* const panel = x.data + p * x.stride;
          const int64_t used = std::min(width_, x.tokens - p * width_);
          std::fill(totals, totals + count * width_, 0.0);
          for (int64_t k = 0; k < x.rows; k += kSegment) {
            const int64_t cols = std::min(kSegment, x.rows - k);
            kernels.multiply_panel({weight + k, count, cols, stride_}, panel + k * width_, used, sums);
            for (int64_t i = 0; i < count * width_; ++i) totals[i] += double{sums[i]};
          }
          for (int64_t i = 0; i < count * width_; ++i) sums[i] = static_cast<float>(totals[i]);
          use(row, count, p, sums);
        }
      }
    }
  });
}

void finish_panel(const Call& call, int64_t m, int64_t tokens, const float* sums, int64_t width,
                  const void* scales, lowbit_dtype scales_dtype, int64_t row, int64_t count) {
  for (int64_t t = 0; t < std::min(width, tokens); ++t) {
    float token[kPanelRows];
    for (int64_t r = 0; r < count; ++r) token[r] = sums[r * width + t];
    finish_rows(call, m + t, token, scales, scales_dtype, row, row + count);
  }
}

}  // namespace lowbit::codebook
