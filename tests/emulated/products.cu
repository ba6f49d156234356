// Tensor-core products: each wrapper alone, for the map of its registers, and matrix products made of them.
#include "cuda/ptx/memory.h"
#include "cuda/ptx/mma.h"
#include "entry.h"

namespace lowbit::cuda {
namespace {

enum MmaKind { kU8S8, kS8S8, kB1And, kF16, kBf16 };

struct MmaParams {
  const uint32_t* a;  // [blocks][32 lanes][4]
  const uint32_t* b;  // [blocks][32][2]
  uint32_t* c;        // [blocks][32][4], int32 or fp32: in and out
  MmaKind kind;
};

// One product per block, on registers as they are given.
__global__ void raw_mma(const MmaParams p) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  uint32_t a[4];
  uint32_t b[2];
  int c[4];
  float f[4];
  for (int r = 0; r < 4; ++r) a[r] = p.a[4 * i + r];
  for (int r = 0; r < 2; ++r) b[r] = p.b[2 * i + r];
  for (int r = 0; r < 4; ++r) {
    c[r] = static_cast<int>(p.c[4 * i + r]);
    f[r] = __uint_as_float(p.c[4 * i + r]);
  }
  switch (p.kind) {
    case kU8S8:
      mma_u8s8(c, a, b);
      break;
    case kS8S8:
      mma_s8s8(c, a, b);
      break;
    case kB1And:
      mma_b1_and(c, a, b);
      break;
    case kF16:
      mma_f16(f, a, b);
      break;
    case kBf16:
      mma_bf16(f, a, b);
      break;
  }
  for (int r = 0; r < 4; ++r) {
    p.c[4 * i + r] = p.kind < kF16 ? static_cast<uint32_t>(c[r]) : __float_as_uint(f[r]);
  }
}

// d = a b + c leaves c as it was.
__global__ void separate_sums(const uint32_t* a, const uint32_t* b, int* out) {
  const unsigned lane = threadIdx.x;
  const uint32_t left[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]};
  const uint32_t right[2] = {b[2 * lane], b[2 * lane + 1]};
  const int c[4] = {1, 10, 100, 1000};
  int d[4];
  int e[4];
  mma_u8s8(d, left, right, c);
  mma_s8s8(e, left, right, c);
  for (int r = 0; r < 4; ++r) {
    out[12 * lane + r] = d[r];
    out[12 * lane + 4 + r] = e[r];
    out[12 * lane + 8 + r] = c[r];
  }
}

enum FragmentBug { kNone, kSwappedA, kSwappedB, kSwappedC, kTransposedB };

struct MatmulParams {
  const uint8_t* a;  // [16][K]
  const int8_t* b;   // [8][K]: columns
  int* c;            // [16][8]
  int inputs;        // K, a multiple of 32
  FragmentBug bug;
};

__global__ void matmul_bytes(const MatmulParams p) {
  const unsigned g = threadIdx.x >> 2;
  const unsigned t = threadIdx.x & 3;
  int c[4] = {0, 0, 0, 0};
  for (int k = 0; k < p.inputs; k += 32) {
    uint32_t a[4];
    uint32_t b[2];
    for (unsigned r = 0; r < 4; ++r) {
      const unsigned s = p.bug == kSwappedA ? (r >> 1) + 2 * (r & 1) : r;
      a[r] =
          *reinterpret_cast<const uint32_t*>(p.a + (g + 8 * (s & 1)) * p.inputs + k + 16 * (s >> 1) + 4 * t);
    }
    for (unsigned r = 0; r < 2; ++r) {
      const unsigned s = p.bug == kSwappedB ? 1 - r : r;
      b[r] = *reinterpret_cast<const uint32_t*>(p.b + g * p.inputs + k + 16 * s + 4 * t);
    }
    mma_u8s8(c, a, b);
  }
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned s = p.bug == kSwappedC ? (i >> 1) + 2 * (i & 1) : i;
    p.c[(g + 8 * (s >> 1)) * 8 + 2 * t + (s & 1)] = c[i];
  }
}

struct HalfMatmulParams {
  const __half* a;  // [16][K]
  const __half* b;  // [K][8]
  float* c;         // [16][8]
  int inputs;       // K, a multiple of 16
  FragmentBug bug;
};

// a and b come by ldmatrix: a's four 8 x 8 parts as they are, b's rows transposed into columns.
__global__ void matmul_halves(const HalfMatmulParams p) {
  LOWBIT_SHARED(__half, a_tile, 16 * 16);
  LOWBIT_SHARED(__half, b_tile, 32 * 8);  // rows 16..31 fill up the four matrices
  const unsigned lane = threadIdx.x;
  float c[4] = {0, 0, 0, 0};
  for (int k = 0; k < p.inputs; k += 16) {
    for (unsigned i = lane; i < 256; i += 32) a_tile[i] = p.a[i / 16 * p.inputs + k + i % 16];
    for (unsigned i = lane; i < 256; i += 32) b_tile[i] = i < 128 ? p.b[k * 8 + i] : __half(0.0f);
    __syncwarp();
    uint32_t a[4];
    uint32_t columns[4];
    ldmatrix_x4(a, a_tile + 16 * (lane & 15) + 8 * (lane >> 4));
    if (p.bug == kTransposedB) {
      ldmatrix_x4(columns, b_tile + 8 * lane);
    } else {
      ldmatrix_x4_trans(columns, b_tile + 8 * lane);
    }
    const uint32_t b[2] = {columns[0], columns[1]};
    mma_f16(c, a, b);
    __syncwarp();
  }
  for (unsigned i = 0; i < 4; ++i) p.c[((lane >> 2) + 8 * (i >> 1)) * 8 + 2 * (lane & 3) + (i & 1)] = c[i];
}

// [32 lanes][4] registers of the 512 bytes that are given, as they are and transposed.
__global__ void raw_ldmatrix(const uint4* x, uint32_t* y) {
  LOWBIT_SHARED(uint4, rows, 32);
  const unsigned lane = threadIdx.x;
  rows[lane] = x[lane];
  __syncwarp();
  uint32_t d[4];
  ldmatrix_x4(d, rows + lane);
  for (unsigned i = 0; i < 4; ++i) y[4 * lane + i] = d[i];
  ldmatrix_x4_trans(d, rows + lane);
  for (unsigned i = 0; i < 4; ++i) y[128 + 4 * lane + i] = d[i];
}

enum WarpBug { kWhole, kHalfWarp, kTwoKinds };

__global__ void divergent_mma(int* y, WarpBug bug) {
  const uint32_t a[4] = {1, 1, 1, 1};
  const uint32_t b[2] = {1, 1};
  int c[4] = {0, 0, 0, 0};
  if (bug == kHalfWarp && threadIdx.x >= 16) return;
  if (bug == kTwoKinds && threadIdx.x >= 16) {
    mma_s8s8(c, a, b);
  } else {
    mma_u8s8(c, a, b);
  }
  y[threadIdx.x] = c[0];
}

}  // namespace
}  // namespace lowbit::cuda

LOWBIT_ENTRY test_raw_mma(const uint32_t* a, const uint32_t* b, uint32_t* c, int32_t blocks, int32_t kind) {
  using namespace lowbit::cuda;
  return run(raw_mma, {.grid = dim3(blocks), .block = dim3(32)}, {a, b, c, static_cast<MmaKind>(kind)});
}

LOWBIT_ENTRY test_separate_sums(const uint32_t* a, const uint32_t* b, int* out) {
  using namespace lowbit::cuda;
  return run(separate_sums, {.grid = dim3(1), .block = dim3(32)}, a, b, out);
}

LOWBIT_ENTRY test_matmul_bytes(const uint8_t* a, const int8_t* b, int* c, int32_t inputs, int32_t bug) {
  using namespace lowbit::cuda;
  return run(matmul_bytes, {.grid = dim3(1), .block = dim3(32)},
             {a, b, c, inputs, static_cast<FragmentBug>(bug)});
}

LOWBIT_ENTRY test_matmul_halves(const __half* a, const __half* b, float* c, int32_t inputs, int32_t bug) {
  using namespace lowbit::cuda;
  return run(matmul_halves, {.grid = dim3(1), .block = dim3(32)},
             {a, b, c, inputs, static_cast<FragmentBug>(bug)});
}

LOWBIT_ENTRY test_raw_ldmatrix(const uint4* x, uint32_t* y) {
  using namespace lowbit::cuda;
  return run(raw_ldmatrix, {.grid = dim3(1), .block = dim3(32)}, x, y);
}

LOWBIT_ENTRY test_divergent_mma(int* y, int32_t threads, int32_t bug) {
  using namespace lowbit::cuda;
  return run(divergent_mma, {.grid = dim3(1), .block = dim3(threads)}, y, static_cast<WarpBug>(bug));
}
