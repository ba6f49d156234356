// Linear layers over bit tiles, after validation: what the families signs and planes share.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

// y = concatenation over the segments of ((x * input mix) W_s^T) * output mix, plus bias. Arguments are
// valid; `bias` may be null or empty. Fails when memory is short or the forced instruction set is missing.
lowbit_status bits_linear(const lowbit_signs* segments, int32_t num_segments, int32_t active_planes,
                          const lowbit_input& x, int32_t activation_bits, lowbit_precision precision,
                          const lowbit_vector* bias, const lowbit_output& y) noexcept;

}  // namespace lowbit
