// Canonical vector codebooks to the device's codes and fp16 entries (codebook/vector.h), and x to fp16
// columns.
#include "cuda/activations/octets.h"
#include "cuda/activations/reduce.h"
#include "cuda/codebook/values.h"
#include "cuda/codebook/vector.h"
#include "cuda/ptx/grid.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kThreads = 256;

// Canonical codes are [codebooks][N][positions]: where pair `pair` of lane `lane`, row half h, is among them,
// or -1.
LOWBIT_DEVICE int64_t canonical_index(const VectorWeight& weight, int64_t tile, int64_t pair, int lane,
                                      int h) {
  const int64_t row = tile * kRowTile + lane / 4 + 8 * h, book = pair % weight.num_codebooks;
  const int64_t position = pair / weight.num_codebooks * kStepPositions + lane % 4;
  if (row >= weight.out_features || position >= weight.positions()) return -1;
  return (book * weight.out_features + row) * weight.positions() + position;
}

// One thread per byte of the device's layout, which it writes, or (restore) reads.
template <class Use>
LOWBIT_DEVICE void for_byte(const VectorWeight& weight, const Use& use) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, chunks = weight.chunks();
  if (index >= weight.tiles() * chunks * 512) return;
  const int byte = static_cast<int>(index % 16), lane = static_cast<int>(index / 16 % 32);
  const int64_t chunk = index / 512 % chunks, tile = index / 512 / chunks;
  use(index, canonical_index(weight, tile, chunk * kChunkPairs + byte / 2, lane, byte % 2));
}

__global__ void __launch_bounds__(kThreads) codes_kernel(const VectorRepack p) {
  for_byte(p.weight, [&](int64_t index, int64_t canonical) {
    reinterpret_cast<uint8_t*>(p.codes)[index] = canonical < 0 ? uint8_t{0} : p.canonical[canonical];
  });
}

__global__ void __launch_bounds__(kThreads) restore_kernel(const VectorWeight weight, uint8_t* codes) {
  for_byte(weight, [&](int64_t index, int64_t canonical) {
    if (canonical >= 0) codes[canonical] = reinterpret_cast<const uint8_t*>(weight.codes)[index];
  });
}

// The power of two that takes values of at most `amax` below 2^15, where fp16 keeps 11 bits of all that is
// larger than 2^-29 amax. Its inverse is a float too.
LOWBIT_DEVICE float half_factor(float amax) {
  const int exponent = max(static_cast<int>(__float_as_uint(amax) >> 23 & 255), 27);
  return __uint_as_float(static_cast<uint32_t>(127 + 14 - (exponent - 127)) << 23);
}

// One block: codebooks are small.
__global__ void __launch_bounds__(kThreads) halves_kernel(const VectorRepack p) {
  LOWBIT_SHARED(float, partial, 32);
  const int64_t count = int64_t{p.weight.num_codebooks} * kEntries * p.weight.vector_size;
  float amax = 0.0f;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    amax = fmaxf(amax, fabsf(load_value(p.weight.codebooks, p.weight.dtype, i)));
  }
  const float factor = half_factor(reduce_block(amax, partial, Largest{}));
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    p.halves[i] =
        __half_as_ushort(__float2half_rn(load_value(p.weight.codebooks, p.weight.dtype, i) * factor));
  }
  if (threadIdx.x == 0) *p.halves_scale = 1.0f / factor;
}

struct Stage {
  lowbit_input x;
  HalfColumns out;
};

// One block per token.
__global__ void __launch_bounds__(kThreads) stage_kernel(const Stage p) {
  LOWBIT_SHARED(float, partial, 32);
  release_next_kernel();
  const int64_t token = blockIdx.x, bytes = p.x.dtype == LOWBIT_F32 ? 4 : 2;
  const Row row(static_cast<const char*>(p.x.data) + token * p.x.row_stride * bytes, p.x.dtype, p.x.cols);
  const int octets = static_cast<int>(p.out.padded_inputs / kOctet);
  // As integers magnitudes have the order of the numbers, and NaN is above infinity.
  uint32_t amax = 0;
  for (int octet = threadIdx.x; octet < octets; octet += kThreads) {
    float values[kOctet];
    widen(row.load(octet), p.x.dtype, values);
#pragma unroll
    for (int i = 0; i < kOctet; ++i) amax = max(amax, __float_as_uint(values[i]) & 0x7fffffffu);
  }
  amax = reduce_block(amax, reinterpret_cast<uint32_t*>(partial), Largest{});
  const bool finite = amax < 0x7f800000u;
  const float factor = half_factor(__uint_as_float(amax));
  if (threadIdx.x == 0) p.out.scales[token] = finite ? 1.0f / factor : __uint_as_float(0x7fc00000u);
  const int64_t block = token / p.out.block_tokens();
  const int column = static_cast<int>(token % p.out.block_tokens());
  for (int octet = threadIdx.x; octet < octets; octet += kThreads) {
    float values[kOctet];
    widen(row.load(octet), p.x.dtype, values);
#pragma unroll
    for (int i = 0; i < kOctet; i += 2) {
      uint32_t high = 0, low = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float value = finite ? values[i + j] * factor : 0.0f;
        const __half rounded = __float2half_rn(value);
        high |= static_cast<uint32_t>(__half_as_ushort(rounded)) << (16 * j);
        low |= static_cast<uint32_t>(__half_as_ushort(__float2half_rn(value - __half2float(rounded))))
               << (16 * j);
      }
      const int64_t input = int64_t{octet} * kOctet + i;
      p.out.values[p.out.word_of(block, column, input)] = high;
      if (p.out.per_token == 2) p.out.values[p.out.word_of(block, column + 8, input)] = low;
    }
  }
}

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void repack_vector(const VectorRepack& repack, Stream stream) {
  const VectorWeight& weight = repack.weight;
  launch(codes_kernel, {dim3(blocks_of(weight.tiles() * weight.chunks() * 512)), dim3(kThreads)}, stream,
         repack);
  if (has_halves(weight.vector_size)) launch(halves_kernel, {dim3(1), dim3(kThreads)}, stream, repack);
}

void restore_vector(const VectorWeight& weight, uint8_t* canonical, Stream stream) {
  launch(restore_kernel, {dim3(blocks_of(weight.tiles() * weight.chunks() * 512)), dim3(kThreads)}, stream,
         weight, canonical);
}

void stage_halves(const lowbit_input& x, const HalfColumns& out, Stream stream) {
  launch(stage_kernel, {dim3(static_cast<unsigned>(x.rows)), dim3(kThreads)}, stream, {x, out});
}

}  // namespace lowbit::cuda::codebook
