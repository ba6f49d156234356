// Byte patterns that both look-ups with AVX-512 use.
#pragma once

#include <cstdint>

namespace lowbit {
namespace {

template <int kSize>
struct Bytes {
  alignas(kSize) uint8_t bytes[kSize];
};

// Byte i of dword n: bit first + i % count of n.
constexpr Bytes<64> selected_bits(int first, int count) {
  Bytes<64> result{};
  for (int i = 0; i < 64; ++i) result.bytes[i] = static_cast<uint8_t>(i / 4 >> (first + i % count) & 1);
  return result;
}

}  // namespace
}  // namespace lowbit
