// One table of functions from one traits class: what each codebook_<isa>.cpp exports.
#pragma once

#include "cpu/codebook/codebook.h"
#include "cpu/codebook/dense_kernel.h"
#include "cpu/codebook/fixed_point.h"
#include "cpu/codebook/panel_kernel.h"
#include "cpu/codebook/tables_kernel.h"
#include "cpu/codebook/vectors_kernel.h"

namespace lowbit {

extern const CodebookKernels codebook_kernels_scalar;
#if defined(__x86_64__)
extern const CodebookKernels codebook_kernels_avx2;
extern const CodebookKernels codebook_kernels_avxvnni;
extern const CodebookKernels codebook_kernels_avx512;
extern const PieceKernels piece_kernels_amx;
#endif

namespace codebook {

template <class V>
int32_t digit_lanes(int64_t, int32_t) {
  return V::kLanes;
}

template <class V>
constexpr CodebookKernels kernel_table() {
  return {
      .lanes = V::kLanes,
      .dense = dense<V>,
      .panel_tokens = kPanelVectors * V::kLanes,
      .multiply_panel = multiply_panel<V>,
      .pieces = nullptr,
      .max_digit_bits = V::kMaxDigitBits,
      .digit_lanes = digit_lanes<V>,
      .tables_digits = tables_digits<V>,
      .expanded_bits = V::kExpandedBits,
      .tables_floats = tables_floats<V>,
      .vector_products = vector_products<V>,
      .vector_sums = vector_sums<V>,
      .vector_digit_tables = nullptr,
      .vector_digit_sums = nullptr,
      .vector_integer_products = nullptr,
      .vector_integer_sums = nullptr,
      .finish = finish<V>,
  };
}

}  // namespace codebook
}  // namespace lowbit
