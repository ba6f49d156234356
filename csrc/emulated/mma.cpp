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
// whatever a word holds: 4 bytes, 2 halves or 32 bits. `dot` multiplies eight words by eight onto a sum.
template <class Sum, Sum (*dot)(const uint32_t (&a)[8], const uint32_t (&b)[8], Sum c)>
void multiply(void* const (&records)[32], uint32_t) {
  uint32_t a[16][8];
  uint32_t b[8][8];
  for (int l = 0; l < 32; ++l) {
    const auto& record = *static_cast<const MmaRecord<Sum>*>(records[l]);
    const int g = l >> 2;
    const int t = l & 3;
    for (int r = 0; r < 4; ++r) a[g + 8 * (r & 1)][t + 4 * (r >> 1)] = record.a[r];
    for (int r = 0; r < 2; ++r) b[g][t + 4 * r] = record.b[r];
  }
  for (int l = 0; l < 32; ++l) {
    const auto& record = *static_cast<const MmaRecord<Sum>*>(records[l]);
    const int g = l >> 2;
    const int t = l & 3;
    for (int i = 0; i < 4; ++i) record.d[i] = dot(a[g + 8 * (i >> 1)], b[2 * t + (i & 1)], record.c[i]);
  }
}

// Sums of integers wrap, so they are unsigned.
template <class A>
int dot_bytes(const uint32_t (&a)[8], const uint32_t (&b)[8], int c) {
  A left[32];
  int8_t right[32];
  std::memcpy(left, a, 32);
  std::memcpy(right, b, 32);
  int sum = 0;
  for (int k = 0; k < 32; ++k) sum += left[k] * right[k];
  return static_cast<int>(static_cast<unsigned>(c) + static_cast<unsigned>(sum));
}

int dot_bits(const uint32_t (&a)[8], const uint32_t (&b)[8], int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int k = 0; k < 8; ++k) sum += static_cast<unsigned>(std::popcount(a[k] & b[k]));
  return static_cast<int>(sum);
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
float dot_halves(const uint32_t (&a)[8], const uint32_t (&b)[8], float c) {
  Half left[16];
  Half right[16];
  std::memcpy(left, a, 32);
  std::memcpy(right, b, 32);
  for (int k = 0; k < 16; ++k) c += to_float(left[k]) * to_float(right[k]);
  return c;
}

const WarpOperation kMmaU8S8{"mma_u8s8", multiply<int, dot_bytes<uint8_t>>, true};
const WarpOperation kMmaS8S8{"mma_s8s8", multiply<int, dot_bytes<int8_t>>, true};
const WarpOperation kMmaB1And{"mma_b1_and", multiply<int, dot_bits>, true};
const WarpOperation kMmaF16{"mma_f16", multiply<float, dot_halves<__half>>, true};
const WarpOperation kMmaBf16{"mma_bf16", multiply<float, dot_halves<__nv_bfloat16>>, true};

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
