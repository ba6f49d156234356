// Failure sentences of the C interface: one per thread, read back by lowbit_last_error().
#pragma once

#include "lowbit.h"

namespace lowbit {

// Records the sentence for this thread and returns `status`, so that a check reads
// `if (bad) return fail(LOWBIT_INVALID_ARGUMENT, "x has %lld columns ...", ...)`. Never allocates.
[[gnu::format(printf, 2, 3)]] lowbit_status fail(lowbit_status status, const char* format, ...) noexcept;

// The sentence of this thread's last failure, "" before the first.
const char* last_error() noexcept;

}  // namespace lowbit
