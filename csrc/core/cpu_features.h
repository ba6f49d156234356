// Which instruction set the kernels use: found by asking the processor, overridden by LOWBIT_CPU_ISA.
#pragma once

#include "lowbit.h"

namespace lowbit {

using Isa = lowbit_isa;

// Whether this machine (processor, operating system and build) can run the kernels for `isa`. For amx the
// operating system may still refuse what it supports; it is asked where the level becomes active.
bool isa_available(Isa isa) noexcept;

// The level whose vectors `isa` is built on: families of kernels that make no use of what it adds have the
// same table for both.
constexpr Isa vectors_of(Isa isa) {
  return isa == LOWBIT_ISA_AMX ? LOWBIT_ISA_AVX512 : isa;
}

// "scalar", "avx2", "avxvnni", "avx512", "amx", "neon"; nullptr for a value outside the enumeration.
const char* isa_name(Isa isa) noexcept;

// The instruction set in force. Fails, with a sentence, when LOWBIT_CPU_ISA names an unknown one or one that
// this machine lacks or refuses: a forced choice is never replaced silently.
lowbit_status active_isa(Isa* isa) noexcept;
lowbit_status set_active_isa(Isa isa) noexcept;

// Why the automatic choice passed over the best available one: the operating system's reason; nullptr: it did
// not.
const char* isa_refusal() noexcept;

}  // namespace lowbit
