// Byte patterns that both look-ups with AVX-512 use.
#pragma once

#include <cstdint>

namespace lowbit {
namespace {

template <int kSize>
struct Bytes {
  alignas(kSize) uint8_t bytes[kSize];
};

constexpr Bytes<64> selected_bits() {
  Bytes<64> result{};
  for (int n = 0; n < 16; ++n) {
    for (int i = 0; i < 4; ++i) result.bytes[4 * n + i] = static_cast<uint8_t>(n >> i & 1);
  }
  return result;
}
// Byte i of dword n: bit i of n.
constexpr Bytes<64> kSelected = selected_bits();

}  // namespace
}  // namespace lowbit
