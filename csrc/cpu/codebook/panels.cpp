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
static_assert(kPanelRows % kTileRows == 0 && kPanelRows % PieceKernels::kRows == 0);

// Tiles of rows a thread must have for threads to end together.
constexpr int64_t kLeastTiles = 4;

// How many of so long rows stay near, in multiples of those that are taken side by side.
int64_t near_rows(int64_t stride, int64_t side_by_side) {
  return std::clamp(kNearValues / stride / side_by_side * side_by_side, side_by_side, kPanelRows);
}

// panel [inputs][width] from rows [width][stride].
void transpose(const float* rows, int64_t stride, int64_t inputs, int64_t width, float* panel) {
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
    : kernels_(call.kernels),
      pieces_(call.pieces),
      token_pieces_(call.token_pieces),
      width_(call.kernels.panel_tokens),
      block_(std::min(kPanelBlock, panels(call.x.rows) * width_)),
      // Most rows are a multiple of 4 KB long; as far apart they would meet in one set of the first level
      // cache.
      stride_(padded(inputs) + kLine),
      threads_(static_cast<int>(std::min<int64_t>(call.threads, Pieces::kMaxThreads))),
      loaders_(static_cast<int>(std::min<int64_t>(threads_, block_ / width_))),
      most_rows_(std::max(near_rows(stride_, kTileRows), near_rows(stride_, PieceKernels::kRows))),
      tokens_at_(layout->add<float>(loaders_ * width_ * stride_)),
      weight_at_(layout->add<float>(threads_ * most_rows_ * stride_)),
      packed_at_(layout->add<float>(pieces_ == nullptr ? 0 : threads_ * most_rows_ * stride_)),
      sums_at_(layout->add<float>(threads_ * most_rows_ * width_)),
      totals_at_(layout->add<double>(threads_ * most_rows_ * width_)) {
  static_assert(PieceKernels::kRows > kTileRows);
}

Panels PanelMemory::load(std::byte* base, LoadToken load, int64_t inputs, int64_t first, int64_t tokens,
                         float* data) const {
  parallel_for(panels(tokens), loaders_, [&](int64_t begin, int64_t end, int thread) {
    float* const rows = at<float>(base, tokens_at_) + thread * width_ * stride_;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t m = p * width_, count = std::min(width_, tokens - m);
      for (int64_t t = 0; t < count; ++t) load(first + m + t, thread, rows + t * stride_);
      std::fill(rows + count * stride_, rows + width_ * stride_, 0.0f);
      float* const panel = data + p * panel_floats(inputs);
      if (pieces_ != nullptr) {
        pieces_->pack_tokens(rows, stride_, inputs, token_pieces_, reinterpret_cast<uint16_t*>(panel));
      } else {
        transpose(rows, stride_, inputs, width_, panel);
      }
    }
  });
  return {data, inputs, panel_floats(inputs), tokens, pieces_ == nullptr ? 0 : token_pieces_};
}

int64_t PanelMemory::rows(int64_t outputs, int64_t side_by_side) const {
  const int64_t share = outputs / (kLeastTiles * threads_) / side_by_side * side_by_side;
  return std::min(near_rows(stride_, side_by_side), std::max(share, side_by_side));
}

void PanelMemory::multiply(std::byte* base, const Panels& x, int64_t outputs, ExpandRows expand,
                           UseSums use) const {
  const int64_t most = rows(outputs, x.pieces > 0 ? PieceKernels::kRows : kTileRows);
  balanced_for((outputs + most - 1) / most, threads_, 1, [&](Pieces& tiles, int thread) {
    float* const weight = at<float>(base, weight_at_) + thread * most_rows_ * stride_;
    auto* const packed =
        reinterpret_cast<uint16_t*>(at<float>(base, packed_at_) + thread * most_rows_ * stride_);
    float* const sums = at<float>(base, sums_at_) + thread * most_rows_ * width_;
    double* const totals = at<double>(base, totals_at_) + thread * most_rows_ * width_;
    for (int64_t tile, last; tiles.next(&tile, &last);) {
      for (; tile < last; ++tile) {
        const int64_t row = tile * most, count = std::min(most, outputs - row);
        expand(row, count, weight, stride_);
        const int32_t row_pieces =
            x.pieces > 0 ? pieces_->pack_rows(weight, stride_, count, x.rows, packed) : 0;
        for (int64_t p = 0; p < panels(x.tokens); ++p) {
          const float* const panel = x.data + p * x.stride;
          const int64_t used = std::min(width_, x.tokens - p * width_);
          if (x.pieces > 0) {
            const int64_t groups = (x.rows + PieceKernels::kGroup - 1) / PieceKernels::kGroup;
            const PiecePanel tokens{reinterpret_cast<const uint16_t*>(panel), x.pieces,
                                    x.scales == nullptr ? nullptr : x.scales + p * groups * width_};
            pieces_->multiply(packed, count, row_pieces, tokens, used, x.rows, sums);
          } else {
            sum_segments({weight, count, x.rows, stride_}, panel, used, sums, totals);
          }
          use(row, count, p, sums);
        }
      }
    }
  });
}

void PanelMemory::sum_segments(const PanelWeight& weight, const float* panel, int64_t tokens, float* sums,
                               double* totals) const {
  if (weight.cols <= kSegment) return kernels_.multiply_panel(weight, panel, tokens, sums);
  const int64_t size = weight.rows * width_;
  std::fill(totals, totals + size, 0.0);
  for (int64_t k = 0; k < weight.cols; k += kSegment) {
    const int64_t cols = std::min(kSegment, weight.cols - k);
    kernels_.multiply_panel({weight.data + k, weight.rows, cols, weight.stride}, panel + k * width_, tokens,
                            sums);
    for (int64_t i = 0; i < size; ++i) totals[i] += double{sums[i]};
  }
  for (int64_t i = 0; i < size; ++i) sums[i] = static_cast<float>(totals[i]);
}

void finish_panel(const Call& call, int64_t m, int64_t tokens, const float* sums, int64_t width,
                  const void* scales, lowbit_dtype scales_dtype, int64_t row, int64_t count) {
  // By blocks of tokens: values that were just stored one by one would hold up a load of several of them.
  constexpr int64_t kBlock = 8;
  float values[kBlock][kPanelRows];
  const int64_t used = std::min(width, tokens);
  for (int64_t first = 0; first < used; first += kBlock) {
    const int64_t last = std::min(first + kBlock, used);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t t = first; t < last; ++t) values[t - first][r] = sums[r * width + t];
    }
    for (int64_t t = first; t < last; ++t) {
      finish_rows(call, m + t, values[t - first], scales, scales_dtype, row, row + count);
    }
  }
}

}  // namespace lowbit::codebook
