// A vector of floats from values of any floating point type.
#pragma once

#include <cstdint>

#include "cpu/isa/inline.h"
#include "lowbit.h"

namespace lowbit {
namespace {

template <class Isa, lowbit_dtype kType>
LOWBIT_INLINE typename Isa::F32 load_floats(const void* data, int64_t index) {
  if constexpr (kType == LOWBIT_F32) return Isa::fload(static_cast<const float*>(data) + index);
  const uint16_t* const half = static_cast<const uint16_t*>(data) + index;
  if constexpr (kType == LOWBIT_F16) return Isa::load_f16(half);
  return Isa::load_bf16(half);
}

template <class Isa>
LOWBIT_INLINE typename Isa::F32 load_floats(const void* data, lowbit_dtype dtype, int64_t index) {
  if (dtype == LOWBIT_F32) return load_floats<Isa, LOWBIT_F32>(data, index);
  if (dtype == LOWBIT_F16) return load_floats<Isa, LOWBIT_F16>(data, index);
  return load_floats<Isa, LOWBIT_BF16>(data, index);
}

}  // namespace
}  // namespace lowbit
