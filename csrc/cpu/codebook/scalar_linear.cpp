// Scalar codebooks: activations into the kernels' order, table products, sparse corrections.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/balanced_for.h"
#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/codebook/expanded.h"

namespace lowbit::codebook {
namespace {

constexpr int64_t kBlock = LOWBIT_BLOCK_INPUTS;

// The digits of a table are as fine as its largest entry. A row this short may use none but small entries,
// and a sum of few products would then be less exact than fp32.
constexpr int64_t kFloatInputs = kBlock;

// Rows that are finished at a time: their planes stay in the second level cache while block after block of
// tokens, whose codes stay in the first, runs over them.
constexpr int64_t kRunRows = 128;

// From so many tokens on digits are stored and not looked up for every few.
constexpr int64_t kStoredTokens = 16;

// Tokens that stored digits meet. Their codes take a quarter of what fp32 takes, which outliers want besides.
constexpr int64_t kMaxDigitTokens = 4 * kMaxTokens;

// One token's activations in the orders that are wanted; null ones are not.
struct Token {
  float* values;          // [padded(K)] in the order of x, as the products see them
  float* chunked_values;  // ChunkedValues
  int8_t* chunked_codes;  // ChunkedCodes
  float* lane_scales;
  float* sum;
};

// What one thread needs while it prepares a token.
struct Workspace {
  float* values;  // [padded(K)]
  int8_t* codes;  // as Columns lays them out
  int32_t* sums;
  float* scales;
};

// Blocks of 32 inputs are the lanes of the chunks, so a chunk is a transpose [lanes][8 j] -> [8 j][lanes]: of
// dwords for codes, since a block of codes is [8 j][4 t] already.
void chunk_codes(const int8_t* codes, int64_t blocks, int64_t lanes, int8_t* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    int8_t* const lane = out + (b / lanes * 8 * lanes + b % lanes) * 4;
    for (int j = 0; j < 8; ++j) std::memcpy(lane + j * lanes * 4, codes + b * kBlock + j * 4, 4);
  }
}

// Here a block is [4 t][8 j] and becomes [8 j][4 t].
void chunk_values(const float* values, int64_t blocks, int64_t lanes, float* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    float* const lane = out + b / lanes * kBlock * lanes + b % lanes;
    for (int j = 0; j < 8; ++j) {
      for (int t = 0; t < 4; ++t) lane[(4 * j + t) * lanes] = values[b * kBlock + 8 * t + j];
    }
  }
}

// Values become what codes and scales say of them, or the codes alone.
void round_values(const CodeFormat& format, int64_t blocks, const Workspace& work, bool scaled,
                  float* values) {
  for (int64_t b = 0; b < blocks; ++b) {
    const float scale = scaled ? work.scales[b / format.x_group_blocks] : 1.0f;
    for (int k = 0; k < kBlock; ++k) {
      const int j = k % 8, t = k / 8;
      values[b * kBlock + k] = scale * static_cast<float>(work.codes[b * kBlock + 4 * j + t]);
    }
  }
}

void prepare(const Call& call, int64_t m, bool quantize, int64_t chunks, int64_t lanes, const Workspace& work,
             const Token& out) {
  const int64_t blocks = padded(call.x.cols) / kBlock;
  float* const values = out.values != nullptr ? out.values : work.values;
  load_token(call, m, values);
  if (quantize) {
    const CodeFormat format = code_format(LOWBIT_FAST, 0, call.x.cols);
    call.activations.quantize(values, format, work.codes, work.sums, work.scales);
    if (out.chunked_codes != nullptr) {
      std::fill(out.chunked_codes, out.chunked_codes + chunks * lanes * kBlock, int8_t{0});
      chunk_codes(work.codes, blocks, lanes, out.chunked_codes);
      std::fill(out.lane_scales, out.lane_scales + chunks * lanes, 0.0f);
      float sum = 0.0f;
      for (int64_t b = 0; b < blocks; ++b) {
        out.lane_scales[b] = work.scales[b / format.x_group_blocks];
        sum += static_cast<float>(work.sums[b]) * out.lane_scales[b];
      }
      *out.sum = sum;
    }
    if (out.values != nullptr || out.chunked_values != nullptr)
      round_values(format, blocks, work, true, values);
  }
  if (out.chunked_values != nullptr) {
    std::fill(out.chunked_values, out.chunked_values + chunks * lanes * kBlock, 0.0f);
    chunk_values(values, blocks, lanes, out.chunked_values);
  }
}

// Adds the outliers of rows [begin, end) for one token.
void add_outliers(const lowbit_codebook_scalar& weight, const float* x, int64_t begin, int64_t end,
                  float* sums) {
  for (int64_t n = begin; n < end; ++n) {
    float sum = 0.0f;
    for (int64_t i = weight.outlier_offsets[n]; i < weight.outlier_offsets[n + 1]; ++i) {
      sum += load_value(weight.outlier_values, weight.outlier_values_dtype, i) * x[weight.outlier_columns[i]];
    }
    sums[n - begin] += sum;
  }
}

lowbit_status multiply_tables(const lowbit_codebook_scalar& weight, bool quantize_activations, bool digits,
                              const Call& call) {
  thread_local Scratch scratch;
  const CodebookKernels& kernels = call.kernels;
  const int64_t tokens = call.x.rows;
  const int64_t inputs = padded(weight.in_features), blocks = inputs / kBlock;
  const int32_t lanes = digits ? kernels.digit_lanes(weight.in_features, weight.bits) : kernels.lanes;
  const int64_t chunks = (blocks + lanes - 1) / lanes;
  const int64_t chunk_inputs = chunks * lanes * kBlock;
  const bool outliers = weight.outlier_offsets != nullptr;
  const int64_t threads = std::min<int64_t>(get_num_threads(), tokens);

  ScratchLayout layout;
  const size_t values_at = layout.add<float>(outliers ? tokens * inputs : 0);
  const size_t chunked_values_at = layout.add<float>(digits ? 0 : tokens * chunk_inputs);
  const size_t chunked_codes_at = layout.add<int8_t>(digits ? tokens * chunk_inputs : 0);
  const size_t lane_scales_at = layout.add<float>(digits ? tokens * chunks * lanes : 0);
  const size_t token_sums_at = layout.add<float>(tokens);
  const size_t work_values_at = layout.add<float>(threads * inputs);
  const size_t work_codes_at = layout.add<int8_t>(threads * inputs);
  const size_t work_sums_at = layout.add<int32_t>(threads * blocks);
  const size_t work_scales_at = layout.add<float>(threads * blocks);
  constexpr int64_t kUnit = 4;  // rows, which some kernels take together
  constexpr int64_t kLeastUnits = 8;
  const int64_t units = (weight.out_features + kUnit - 1) / kUnit;
  const int workers =
      static_cast<int>(std::min({int64_t{get_num_threads()}, int64_t{Pieces::kMaxThreads}, units}));
  const size_t sums_at = layout.add<float>(workers * tokens * kRunRows);
  const int64_t digit_bytes = digits && tokens >= kStoredTokens ? kStoredRows * 3 * chunk_inputs : 0;
  const size_t digits_at = layout.add<uint8_t>(workers * digit_bytes);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());

  const auto token = [&](int64_t m) {
    return Token{outliers ? at<float>(base, values_at) + m * inputs : nullptr,
                 digits ? nullptr : at<float>(base, chunked_values_at) + m * chunk_inputs,
                 digits ? at<int8_t>(base, chunked_codes_at) + m * chunk_inputs : nullptr,
                 at<float>(base, lane_scales_at) + m * chunks * lanes, at<float>(base, token_sums_at) + m};
  };
  parallel_for(tokens, static_cast<int>(threads), [&](int64_t begin, int64_t end, int thread) {
    const Workspace work{
        at<float>(base, work_values_at) + thread * inputs, at<int8_t>(base, work_codes_at) + thread * inputs,
        at<int32_t>(base, work_sums_at) + thread * blocks, at<float>(base, work_scales_at) + thread * blocks};
    for (int64_t m = begin; m < end; ++m)
      prepare(call, m, quantize_activations, chunks, lanes, work, token(m));
  });

  const Token first = token(0);
  balanced_for(units, workers, kLeastUnits, [&](Pieces& pieces, int thread) {
    const Sums sums{at<float>(base, sums_at) + thread * tokens * kRunRows, kRunRows};
    uint8_t* const stored = digit_bytes > 0 ? at<uint8_t>(base, digits_at) + thread * digit_bytes : nullptr;
    for (int64_t first_unit, last_unit; pieces.next(&first_unit, &last_unit);) {
      const int64_t piece_end = std::min(last_unit * kUnit, weight.out_features);
      for (int64_t begin = first_unit * kUnit; begin < piece_end; begin += kRunRows) {
        const int64_t end = std::min(begin + kRunRows, piece_end);
        if (digits) {
          kernels.tables_digits(
              weight, {tokens, chunks, lanes, first.chunked_codes, first.lane_scales, first.sum, stored},
              sums, begin, end);
        } else {
          kernels.tables_floats(weight, {tokens, chunks, first.chunked_values}, sums, begin, end);
        }
        for (int64_t m = 0; m < tokens; ++m) {
          float* const row = sums.data + m * sums.stride;
          if (outliers) add_outliers(weight, first.values + m * inputs, begin, end, row);
          finish_rows(call, m, row, nullptr, LOWBIT_F32, begin, end);
        }
      }
    }
  });
  return LOWBIT_OK;
}

// The bits of a byte as the lowest ones of eight bytes.
constexpr std::array<uint64_t, 256> spread_bits() {
  std::array<uint64_t, 256> spread{};
  for (uint64_t byte = 0; byte < 256; ++byte) {
    for (int bit = 0; bit < 8; ++bit) spread[byte] |= (byte >> bit & 1) << (8 * bit);
  }
  return spread;
}

// Row n in fp32, outliers added.
void expand_row(const lowbit_codebook_scalar& weight, int64_t n, float* expanded) {
  static constexpr std::array<uint64_t, 256> kSpread = spread_bits();
  const int64_t entries = int64_t{1} << weight.bits, row_bytes = (weight.in_features + 7) / 8;
  float table[256];
  for (int64_t i = 0; i < entries; ++i) {
    table[i] = load_value(weight.tables, weight.tables_dtype, n * entries + i);
  }
  const uint8_t* const bits = weight.weight + n * row_bytes;
  for (int64_t byte = 0; byte < row_bytes; ++byte) {
    uint64_t codes = 0;  // of eight inputs
    for (int32_t plane = 0; plane < weight.bits; ++plane) {
      codes = codes << 1 | kSpread[bits[plane * weight.out_features * row_bytes + byte]];
    }
    const int64_t count = std::min<int64_t>(8, weight.in_features - 8 * byte);
    for (int64_t k = 0; k < count; ++k) expanded[8 * byte + k] = table[codes >> (8 * k) & 0xff];
  }
  if (weight.outlier_offsets == nullptr) return;
  for (int64_t i = weight.outlier_offsets[n]; i < weight.outlier_offsets[n + 1]; ++i) {
    expanded[weight.outlier_columns[i]] += load_value(weight.outlier_values, weight.outlier_values_dtype, i);
  }
}

lowbit_status multiply_expanded(const lowbit_codebook_scalar& weight, bool quantize_activations,
                                const Call& call) {
  thread_local Scratch scratch;
  const int64_t inputs = padded(weight.in_features), blocks = inputs / kBlock;
  const int64_t threads = call.threads;
  ScratchLayout layout;
  const size_t codes_at = layout.add<int8_t>(threads * inputs);
  const size_t sums_at = layout.add<int32_t>(threads * blocks);
  const size_t scales_at = layout.add<float>(threads * blocks);
  const bool pieces = call.pieces != nullptr;
  const int64_t groups = (weight.in_features + PieceKernels::kGroup - 1) / PieceKernels::kGroup;
  const size_t panel_scales_at = layout.add<float>(pieces ? kPanelBlock * groups : 0);
  std::byte* const base = scratch.reserve(layout.size());
  if (base == nullptr) return out_of_memory(call, layout.size());
  float* const panel_scales = pieces ? at<float>(base, panel_scales_at) : nullptr;
  if (pieces) std::fill_n(panel_scales, kPanelBlock * groups, 0.0f);  // tokens that fill up a panel

  const auto load = [&](int64_t m, int thread, float* values) {
    load_token(call, m, values);
    if (!quantize_activations) return;
    const CodeFormat format = code_format(LOWBIT_FAST, 0, call.x.cols);
    const Workspace work{nullptr, at<int8_t>(base, codes_at) + thread * inputs,
                         at<int32_t>(base, sums_at) + thread * blocks,
                         at<float>(base, scales_at) + thread * blocks};
    call.activations.quantize(values, format, work.codes, work.sums, work.scales);
    round_values(format, blocks, work, !pieces, values);
    if (!pieces) return;
    // Blocks of tokens begin at multiples of kPanelBlock.
    const int64_t t = m % kPanelBlock, width = PieceKernels::kTokens;
    for (int64_t g = 0; g < groups; ++g) {
      panel_scales[(t / width * groups + g) * width + t % width] = work.scales[g];
    }
  };
  const auto expand = [&](int64_t row, int64_t count, float* expanded, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) expand_row(weight, row + i, expanded + i * stride);
  };
  return expanded_linear(call, load, expand, nullptr, LOWBIT_F32, panel_scales);
}

}  // namespace

lowbit_status scalar_linear(const lowbit_codebook_scalar& weight, bool quantize_activations,
                            const Call& call) {
  const CodebookKernels& kernels = call.kernels;
  // What has digits keeps its sums, which are those of few tokens, except where pieces are much faster.
  const bool expands =
      call.pieces != nullptr ||
      (quantize_activations ? weight.bits > kernels.max_digit_bits : weight.bits >= kernels.expanded_bits);
  if (expands && call.x.rows >= kPanelTokens) return multiply_expanded(weight, quantize_activations, call);
  const bool digits =
      quantize_activations && weight.bits <= call.kernels.max_digit_bits && weight.in_features > kFloatInputs;
  return for_tokens(call, digits ? kMaxDigitTokens : kMaxTokens, [&](const Call& some) {
    return multiply_tables(weight, quantize_activations, digits, some);
  });
}

}  // namespace lowbit::codebook
