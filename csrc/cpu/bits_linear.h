// Linear layers over bit tiles, after validation: what the families signs and planes share.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

// One vector over the outputs of all segments, or one for each segment. Null or without data: none.
struct Biases {
  const lowbit_vector* vectors;
  bool per_segment = false;
};

// y = concatenation over the segments of ((x * input mix) W_s^T) * output mix, plus bias. Arguments are
// valid. Fails when memory is short or the forced instruction set is missing.
lowbit_status bits_linear(const lowbit_signs* segments, int32_t num_segments, int32_t active_planes,
                          const lowbit_input& x, int32_t activation_bits, lowbit_precision precision,
                          Biases biases, const lowbit_output& y) noexcept;

}  // namespace lowbit
