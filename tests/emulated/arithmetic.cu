// Built-in arithmetic, in the form in which kernels use it.
#include "cuda/ptx/integer.h"
#include "entry.h"

namespace lowbit::cuda {
namespace {

struct IntegerParams {
  const uint32_t* x;  // [n][3]
  uint32_t* y;        // [n][kIntegerResults]
  int n;
};

constexpr int kIntegerResults = 20;

__global__ void integers(const IntegerParams p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= p.n) return;
  const uint32_t a = p.x[3 * i];
  const uint32_t b = p.x[3 * i + 1];
  const uint32_t c = p.x[3 * i + 2];
  const int signed_a = static_cast<int>(a);
  const int signed_b = static_cast<int>(b);
  const uint32_t results[kIntegerResults] = {
      static_cast<uint32_t>(__popc(a)),
      static_cast<uint32_t>(__clz(signed_a)),
      static_cast<uint32_t>(__ffs(signed_a)),
      __brev(a),
      permute_bytes(a, b, c),
      __funnelshift_l(a, b, c),
      __funnelshift_r(a, b, c),
      __funnelshift_lc(a, b, c & 63),
      __funnelshift_rc(a, b, c & 63),
      static_cast<uint32_t>(__dp4a(signed_a, signed_b, static_cast<int>(c))),
      __dp4a(a, b, c),
      __umulhi(a, b),
      static_cast<uint32_t>(__mulhi(signed_a, signed_b)),
      min(a, b),
      static_cast<uint32_t>(min(signed_a, signed_b)),
      static_cast<uint32_t>(max(signed_a, signed_b)),
      logic3<0xea>(a, b, c),
      logic3<0x78>(a, b, c),
      shift_right_logical(a, c & 31),
      static_cast<uint32_t>(__popcll(static_cast<unsigned long long>(a) << 32 | b)),
  };
  for (int k = 0; k < kIntegerResults; ++k) p.y[kIntegerResults * i + k] = results[k];
}

// fp32 operands, rounded to the narrow type first; results as fp32.
template <class T>
__device__ void half_results(T a, T b, T c, float* y) {
  y[0] = static_cast<float>(__hadd(a, b));
  y[1] = static_cast<float>(__hmul(a, b));
  y[2] = static_cast<float>(__hfma(a, b, c));
  y[3] = static_cast<float>(__hsub(a, b));
}

__global__ void halves(const float* x, float* y, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= n) return;
  const float a = x[3 * i];
  const float b = x[3 * i + 1];
  const float c = x[3 * i + 2];
  half_results(__float2half_rn(a), __float2half_rn(b), __float2half_rn(c), y + 12 * i);
  half_results(__float2bfloat16_rn(a), __float2bfloat16_rn(b), __float2bfloat16_rn(c), y + 12 * i + 4);
  const __half2 pair = __hfma2(__floats2half2_rn(a, b), __floats2half2_rn(c, c), __floats2half2_rn(b, a));
  y[12 * i + 8] = __low2float(pair);
  y[12 * i + 9] = __high2float(pair);
  y[12 * i + 10] = static_cast<float>(__float2int_rn(a));
  y[12 * i + 11] = static_cast<float>(__float2int_rz(a));
}

struct AtomicParams {
  int* sum;
  unsigned* extremes;  // min, max, bits or, bits and, exchanged, compared, last block's number
  unsigned long long* wide;
};

__global__ void atomics(const AtomicParams p) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(p.sum, static_cast<int>(i) - 10);
  atomicMin(&p.extremes[0], i + 5);
  atomicMax(&p.extremes[1], i + 5);
  atomicOr(&p.extremes[2], 1u << (i & 31));
  atomicAnd(&p.extremes[3], ~(1u << (i & 7)));
  atomicExch(&p.extremes[4], 77u);
  atomicCAS(&p.extremes[5], i, i + 1);
  atomicAdd(p.wide, 1ull << 33);
  if (threadIdx.x == 0 && atomicInc(&p.extremes[6], gridDim.x - 1) == gridDim.x - 1) p.extremes[7] = 1;
}

}  // namespace
}  // namespace lowbit::cuda

LOWBIT_ENTRY test_integers(const uint32_t* x, uint32_t* y, int32_t n) {
  using namespace lowbit::cuda;
  return run(integers, {.grid = dim3((n + 63) / 64), .block = dim3(64)}, {x, y, n});
}

LOWBIT_ENTRY test_halves_arithmetic(const float* x, float* y, int32_t n) {
  using namespace lowbit::cuda;
  return run(halves, {.grid = dim3(1), .block = dim3(n)}, x, y, n);
}

LOWBIT_ENTRY test_atomics(int* sum, unsigned* extremes, unsigned long long* wide) {
  using namespace lowbit::cuda;
  return run(atomics, {.grid = dim3(3), .block = dim3(48)}, {sum, extremes, wide});
}
