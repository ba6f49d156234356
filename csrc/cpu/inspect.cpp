// C interface to the prologue alone, so that references can work on the kernels' own activations.
#include <algorithm>

#include "core/cpu_features.h"
#include "cpu/activations/prologue.h"
#include "cpu/checks.h"
#include "lowbit.h"

namespace lowbit {
namespace {

// Undoes the order of Columns: [column][block][8 j][4 c] holds input 32 block + 8 c + j.
void plain_codes(const Columns& columns, int64_t token, int64_t in_features, int32_t* codes) {
  const int64_t padded = columns.k_blocks * LOWBIT_BLOCK_INPUTS;
  const int8_t* const source = columns.codes + token * columns.per_token * padded;
  for (int64_t k = 0; k < in_features; ++k) {
    const int64_t i = k % LOWBIT_BLOCK_INPUTS;
    const int8_t* const code = source + k - i + 4 * (i % 8) + i / 8;
    codes[k] = columns.per_token == 1 ? code[0] : code[0] * (1 << columns.radix_shift) + code[padded];
  }
}

// Rows of a pass: the prologue's memory stays small, whatever the number of tokens.
constexpr int64_t kPassTokens = 64;

template <class Body>
lowbit_status for_each_pass(int64_t rows, Body body) {
  for (int64_t first = 0; first < rows; first += kPassTokens) {
    if (const lowbit_status bad = body(first, std::min(first + kPassTokens, rows))) return bad;
  }
  return LOWBIT_OK;
}

}  // namespace
}  // namespace lowbit

extern "C" lowbit_status lowbit_quantize_activations(const lowbit_input* x, int32_t activation_bits,
                                                     lowbit_precision precision, int32_t* codes,
                                                     float* scales) {
  using namespace lowbit;
  if (const lowbit_status bad = check_not_null(x, "x")) return bad;
  if (const lowbit_status bad = check_range(x->cols, 1, INT64_MAX, "x.cols")) return bad;
  if (const lowbit_status bad = check_input(x, x->cols)) return bad;
  if (const lowbit_status bad = check_range(activation_bits, 0, 8, "activation_bits")) return bad;
  const lowbit_precision largest = activation_bits > 0 ? LOWBIT_EXACT : LOWBIT_HIGH;
  if (const lowbit_status bad = check_range(precision, LOWBIT_FAST, largest, "precision")) return bad;
  if (const lowbit_status bad = check_not_null(codes, "codes")) return bad;
  if (const lowbit_status bad = check_not_null(scales, "scales")) return bad;
  Isa isa;
  if (const lowbit_status bad = active_isa(&isa)) return bad;

  const lowbit_signs no_experts{};
  Prologue prologue(activation_kernels(isa), code_format(precision, activation_bits, x->cols), false,
                    &no_experts, 1);
  return for_each_pass(x->rows, [&](int64_t first, int64_t last) {
    if (const lowbit_status bad = prologue.run(*x, first, last)) return bad;
    const Columns columns = prologue.columns(0, 0, last - first);
    const int64_t groups = (columns.k_blocks + columns.x_group_blocks - 1) / columns.x_group_blocks;
    for (int64_t m = first; m < last; ++m) plain_codes(columns, m - first, x->cols, codes + m * x->cols);
    std::copy_n(columns.scales, (last - first) * groups, scales + first * groups);
    return LOWBIT_OK;
  });
}

extern "C" lowbit_status lowbit_signs_prologue(const lowbit_signs* segment, const lowbit_input* x,
                                               float* gates, float* z) {
  using namespace lowbit;
  if (const lowbit_status bad = check_not_null(segment, "segment")) return bad;
  if (const lowbit_status bad = check_signs(*segment, "segment")) return bad;
  if (const lowbit_status bad = check_input(x, segment->bits.in_features)) return bad;
  if (const lowbit_status bad = check_not_null(z, "z")) return bad;
  if (segment->experts > 0) {
    if (const lowbit_status bad = check_not_null(gates, "gates")) return bad;
  }
  Isa isa;
  if (const lowbit_status bad = active_isa(&isa)) return bad;

  Prologue prologue(activation_kernels(isa), code_format(LOWBIT_FAST, 0, x->cols), true, segment, 1);
  return for_each_pass(x->rows, [&](int64_t first, int64_t last) {
    if (const lowbit_status bad = prologue.run(*x, first, last)) return bad;
    const FloatColumns columns = prologue.float_columns(0, 0, last - first);
    for (int64_t m = first; m < last; ++m) {
      const float* const values = columns.values + (m - first) * columns.k_blocks * LOWBIT_BLOCK_INPUTS;
      std::copy_n(values, x->cols, z + m * x->cols);
    }
    const int64_t experts = segment->experts;
    if (experts > 0) std::copy_n(prologue.gates(0, 0), (last - first) * experts, gates + first * experts);
    return LOWBIT_OK;
  });
}
