// Digits of looked-up values that many tokens are multiplied with: made once, read for each of them.
#pragma once

#include <cstdint>

#include "cpu/isa/inline.h"

namespace lowbit::codebook {

// [chunks][8 j][3 digits] vectors of bytes.
template <class V>
struct StoredDigits {
  static constexpr int64_t kVectorBytes = 4 * V::kLanes;
  static constexpr int64_t kChunkBytes = 8 * 3 * kVectorBytes;

  const uint8_t* digits;

  // use(j, digits of j)
  template <class Use>
  LOWBIT_INLINE void for_each(int64_t chunk, Use use) const {
    const uint8_t* from = digits + chunk * kChunkBytes;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j, from += 3 * kVectorBytes) {
      const typename V::I32 u[3] = {V::load(from), V::load(from + kVectorBytes),
                                    V::load(from + 2 * kVectorBytes)};
      use(j, u);
    }
  }
};

}  // namespace lowbit::codebook
