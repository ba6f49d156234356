// Tensor-core instructions in plain C++, from the fragment tables of the PTX manual (drawn in
// cuda/ptx/mma.h).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "emulated/buffers.h"
#include "emulated/memory.h"
#include "emulated/shared.h"
#include "emulated/warp.h"

namespace lowbit::emulated {
namespace {

// One lane's registers. d may be c.
template <class Sum>
struct MmaRecord {
  Sum (&d)[4];
  const uint32_t (&a)[4];
  const uint32_t (&b)[2];
  const Sum (&c)[4];
};

// A row of `a` or a column of `b` is eight words along the inputs, word 4 h + t held by lane t of its four:
//
//   a[row][word]     lane 4 (row % 8) + word % 4, register row / 8 + 2 (word / 4)
//   b[column][word]  lane 4 column + word % 4,    register word / 4
//
// whatever a word holds: 4 bytes, 2 halves or 32 bits. `dots` adds to every sum the product of its row and
// column.
using Rows = uint32_t[16][8];
using Columns = uint32_t[8][8];
template <class Sum>
using Sums = Sum[16][8];

template <class Sum, void (*dots)(const Rows& a, const Columns& b, Sums<Sum>& sums)>
void multiply(void* const (&records)[32], uint32_t) {
  Rows a;
  Columns b;
  Sums<Sum> sums;
  for (int l = 0; l < 32; ++l) {
    const auto& record = *static_cast<const MmaRecord<Sum>*>(records[l]);
    const int g = l >> 2;
    const int t = l & 3;
    for (int r = 0; r < 4; ++r) a[g + 8 * (r & 1)][t + 4 * (r >> 1)] = record.a[r];
    for (int r = 0; r < 2; ++r) b[g][t + 4 * r] = record.b[r];
    for (int i = 0; i < 4; ++i) sums[g + 8 * (i >> 1)][2 * t + (i & 1)] = record.c[i];
  }
  dots(a, b, sums);
  for (int l = 0; l < 32; ++l) {
    const auto& record = *static_cast<const MmaRecord<Sum>*>(records[l]);
    const int g = l >> 2;
    const int t = l & 3;
    for (int i = 0; i < 4; ++i) record.d[i] = sums[g + 8 * (i >> 1)][2 * t + (i & 1)];
  }
}

// The loops that most of a test's time goes to have nothing that a sanitizer could find: they stay inside
// arrays of known size, and sums of integers wrap, so they are unsigned.
#define LOWBIT_PLAIN_LOOPS [[gnu::no_sanitize("address", "undefined")]]

template <class A>
LOWBIT_PLAIN_LOOPS void dots_of_bytes(const Rows& a, const Columns& b, Sums<int>& sums) {
  A narrow_left[16][32];
  int8_t narrow_right[8][32];
  std::memcpy(narrow_left, a, sizeof(a));
  std::memcpy(narrow_right, b, sizeof(b));
  int16_t left[16][32];
  int16_t right[8][32];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 32; ++k) left[i][k] = narrow_left[i][k];
  }
  for (int j = 0; j < 8; ++j) {
    for (int k = 0; k < 32; ++k) right[j][k] = narrow_right[j][k];
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int sum = 0;
      for (int k = 0; k < 32; ++k) sum += left[i][k] * right[j][k];
      sums[i][j] = static_cast<int>(static_cast<unsigned>(sums[i][j]) + static_cast<unsigned>(sum));
    }
  }
}

LOWBIT_PLAIN_LOOPS void dots_of_bits(const Rows& a, const Columns& b, Sums<int>& sums) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      unsigned sum = static_cast<unsigned>(sums[i][j]);
      for (int k = 0; k < 8; ++k) sum += static_cast<unsigned>(std::popcount(a[i][k] & b[j][k]));
      sums[i][j] = static_cast<int>(sum);
    }
  }
}

float to_float(__half value) {
  return __half2float(value);
}
float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

// Products are exact in fp32; sums are rounded one by one, in ascending order of the inputs. The order within
// an instruction is the device's own affair, so tests allow for it.
template <class Half>
void dots_of_halves(const Rows& a, const Columns& b, Sums<float>& sums) {
  Half narrow_left[16][16];
  Half narrow_right[8][16];
  std::memcpy(narrow_left, a, sizeof(a));
  std::memcpy(narrow_right, b, sizeof(b));
  float left[16][16];
  float right[8][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) left[i][k] = to_float(narrow_left[i][k]);
  }
  for (int j = 0; j < 8; ++j) {
    for (int k = 0; k < 16; ++k) right[j][k] = to_float(narrow_right[j][k]);
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 16; ++k) sums[i][j] += left[i][k] * right[j][k];
    }
  }
}

const WarpOperation kMmaU8S8{"mma_u8s8", multiply<int, dots_of_bytes<uint8_t>>, true};
const WarpOperation kMmaS8S8{"mma_s8s8", multiply<int, dots_of_bytes<int8_t>>, true};
const WarpOperation kMmaB1And{"mma_b1_and", multiply<int, dots_of_bits>, true};
const WarpOperation kMmaF16{"mma_f16", multiply<float, dots_of_halves<__half>>, true};
const WarpOperation kMmaBf16{"mma_bf16", multiply<float, dots_of_halves<__nv_bfloat16>>, true};

template <class Sum>
void meet_mma(const WarpOperation& operation, Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Sum (&c)[4]) {
  MmaRecord<Sum> record{d, a, b, c};
  meet(operation, 0xffffffffu, &record);
}

struct LdmatrixRecord {
  uint32_t (&d)[4];
  const void* row;
};

template <bool kTransposed>
void load_matrices(void* const (&records)[32], uint32_t) {
  uint16_t matrices[4][8][8];
  for (int l = 0; l < 32; ++l) {
    std::memcpy(matrices[l >> 3][l & 7], static_cast<const LdmatrixRecord*>(records[l])->row, 16);
  }
  for (int l = 0; l < 32; ++l) {
    const auto& record = *static_cast<const LdmatrixRecord*>(records[l]);
    const int g = l >> 2;
    const int t = l & 3;
    for (int i = 0; i < 4; ++i) {
      const auto& matrix = matrices[i];
      const uint32_t low = kTransposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = kTransposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      record.d[i] = low | high << 16;
    }
  }
}

const WarpOperation kLdmatrix{"ldmatrix_x4", load_matrices<false>, true};
const WarpOperation kLdmatrixTrans{"ldmatrix_x4_trans", load_matrices<true>, true};

}  // namespace

void mma_u8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
  meet_mma(kMmaU8S8, d, a, b, c);
}
void mma_s8s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
  meet_mma(kMmaS8S8, d, a, b, c);
}
void mma_b1_and(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
  meet_mma(kMmaB1And, d, a, b, c);
}
void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  meet_mma(kMmaF16, d, a, b, c);
}
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  meet_mma(kMmaBf16, d, a, b, c);
}

void ldmatrix_x4(uint32_t (&d)[4], const void* row, bool transposed) {
  check_aligned(row, "ldmatrix_x4");
  if (!is_shared(row, 16)) fail_thread("ldmatrix_x4 from address %p, which is no shared memory", row);
  LdmatrixRecord record{d, row};
  meet(transposed ? kLdmatrixTrans : kLdmatrix, 0xffffffffu, &record);
}

}  // namespace lowbit::emulated
