// Plain C++: a vector is one dword, a chunk 32 inputs. Serves every machine, AArch64 included.
#include <cmath>

#include "core/half.h"
#include "cpu/codebook/kernel_table.h"
#include "cpu/isa/scalar.h"

namespace lowbit {
namespace {

struct Vectors : isa::Scalar {
  static constexpr int kDigitBits = 8;
  static constexpr int kMaxDigitBits = 8;
  static constexpr int kPairedBits = 0;
  static constexpr int kTableTokens = 4;
  static constexpr int kExpandedBits = 9;  // never: an entry costs the same either way

  static I32 select(I32 mask, I32 a, I32 b) { return (a & mask) | (b & ~mask); }

  static I32 load_part(const void* p, int bytes) {
    I32 value = 0;
    std::memcpy(&value, p, static_cast<size_t>(bytes));
    return value;
  }

  template <int kBits>
  struct Digits {
    static constexpr uint32_t kMask = (1u << kBits) - 1;
    uint8_t digits[3][1 << kBits];

    float build(const void* row, lowbit_dtype dtype) {
      float amax = 0.0f;
      for (uint32_t i = 0; i <= kMask; ++i) amax = fmax(amax, fabs(load_value(row, dtype, i)));
      const codebook::FixedPoint<kDigitBits> scale(amax);
      for (uint32_t i = 0; i <= kMask; ++i) {
        const I32 code = to_int(load_value(row, dtype, i) * scale.inverse) + scale.kHalf;
        for (int d = 0; d < 3; ++d) digits[d][i] = static_cast<uint8_t>(code >> (8 * d));
      }
      return scale.step;
    }
    I32 look(int digit, I32 index) const {
      I32 result = 0;
      for (int byte = 0; byte < 32; byte += 8) {
        result |= static_cast<I32>(digits[digit][(index >> byte) & kMask]) << byte;
      }
      return result;
    }
  };

  static I32 byte_products(I32 sum, I32 u, I32 x) { return dot(sum, u, x); }

  template <int kBits>
  struct Entries {
    float values[1 << kBits];

    void build(const void* row, lowbit_dtype dtype) {
      for (int i = 0; i < 1 << kBits; ++i) values[i] = load_value(row, dtype, i);
    }
    template <int kShift>
    F32 pick(I32 index) const {
      return values[(index >> kShift) & ((1u << kBits) - 1)];
    }
  };
};

}  // namespace

extern const CodebookKernels codebook_kernels_scalar = codebook::kernel_table<Vectors>();

}  // namespace lowbit
