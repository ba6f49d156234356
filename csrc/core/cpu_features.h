// Which instruction set the kernels use: found by asking the processor, overridden by LOWBIT_CPU_ISA.
#pragma once

#include "lowbit.h"

namespace lowbit {

using Isa = lowbit_isa;

// Whether this machine (processor and operating system) can run the kernels built for `isa`.
bool isa_available(Isa isa) noexcept;

// "scalar", "avx2", "avxvnni", "avx512", "amx", "neon"; nullptr for a value outside the enumeration.
const char* isa_name(Isa isa) noexcept;

// The instruction set in force. Fails, with a sentence, when LOWBIT_CPU_ISA names an unknown one or one that
// this machine lacks: a forced choice is never replaced silently.
lowbit_status active_isa(Isa* isa) noexcept;
lowbit_status set_active_isa(Isa isa) noexcept;

}  // namespace lowbit
