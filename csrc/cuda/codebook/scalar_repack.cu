// Canonical scalar codebooks to the device's tiles and digits (codebook/tables.h).
#include <cfloat>

#include "cuda/codebook/scalar.h"
#include "cuda/codebook/tables.h"
#include "cuda/codebook/values.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kThreads = 128;

int64_t tiles_of(int64_t rows) {
  return (rows + kTileRows - 1) / kTileRows;
}
int64_t superblocks_of(int64_t inputs) {
  return (inputs + kSuperblock - 1) / kSuperblock;
}

// Where a lane's codes are in the canonical planes.
struct Source {
  const uint8_t* planes;
  int64_t out_features, row_bytes;
  int32_t bits;

  // Bit i: plane `plane` of inputs 4 quad + i of a row; beyond the matrix 0.
  LOWBIT_DEVICE uint32_t quad(int plane, int64_t row, int64_t quad) const {
    if (row >= out_features || quad / 2 >= row_bytes) return 0;
    return planes[(plane * out_features + row) * row_bytes + quad / 2] >> (4 * (quad % 2)) & 15;
  }
};

// Bits 0..3 to bits 0, 4, 8, 12.
LOWBIT_DEVICE uint32_t spread(uint32_t quad) {
  return (quad & 1) | (quad & 2) << 3 | (quad & 4) << 6 | (quad & 8) << 9;
}

// One thread makes what one lane will load for one superblock.
__global__ void __launch_bounds__(kThreads)
    tiles_kernel(const ScalarRepack p, int64_t superblocks, int64_t lanes) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= lanes) return;
  const int lane = static_cast<int>(index % 32), g = lane / 4, t = lane % 4;
  const int64_t superblock = index / 32 % superblocks, tile = index / 32 / superblocks;
  const Source source{p.planes, p.out_features, (p.in_features + 7) / 8, p.bits};
  const auto quad = [&](int plane, int h, int q, int r) {
    return source.quad(plane, tile * kTileRows + g + 8 * (r & 1),
                       (superblock * kSuperblock + 128 * h + 32 * q + 8 * t + 4 * (r >> 1)) / 4);
  };
  auto* const out = reinterpret_cast<uint32_t*>(p.tiles + (index / 32 * p.bits) * 32 + lane);
  constexpr int kLoadWords = 32 * 4;  // from one load of a lane to its next
  if (!has_selectors(p.bits)) {
    for (int b = 0; b < p.bits; ++b) {
      for (int c = 0; c < 4; ++c) {
        uint32_t word = 0;
        for (int i = 0; i < 8; ++i) word |= quad(b, c / 2, 2 * (c % 2) + i / 4, i % 4) << (4 * i);
        out[b * kLoadWords + c] = word;
      }
    }
    return;
  }
  const auto nibbles = [&](int j) {
    uint32_t word = 0;
    for (int plane = 0; plane < p.bits; ++plane) {
      const int h = j / 8, q = j / 2 % 4, r = j % 2 * 2;
      const uint32_t pair = spread(quad(plane, h, q, r)) | spread(quad(plane, h, q, r + 1)) << 16;
      word |= pair << (p.bits - 1 - plane);
    }
    return word;
  };
  for (int c = 0; c < 4; ++c) {
    if (p.bits == 2) {
      for (int b = 0; b < 2; ++b)
        out[b * kLoadWords + c] = nibbles(8 * b + 2 * c) | nibbles(8 * b + 2 * c + 1) << 2;
    } else if (p.bits == 3) {
      const uint32_t spare = nibbles(4 * c + 3);
      for (int e = 0; e < 3; ++e) {
        out[e * kLoadWords + c] = nibbles(4 * c + e) | (spare >> e & 0x11111111u) << 3;
      }
    } else {
      for (int b = 0; b < 4; ++b) out[b * kLoadWords + c] = nibbles(4 * b + c);
    }
  }
}

// The two halves of a 16-entry table are looked up and added: the wrong half yields -1 where its byte of the
// same low bits is negative, else 0. Entries that make the sums come out right again always exist while bytes
// are <= 126:
//
//                          stored low     stored high    they add to
//   low >= 0,  high >= 0   low            high           low + 0, high + 0
//   low >= -1, high < 0    low + 1 >= 0   high           low + 1 - 1, high + 0
//   low < 0,   high >= -1  low            high + 1 >= 0  low + 0, high + 1 - 1
//   both < -1              low + 1 < 0    high + 1 < 0   low + 1 - 1, high + 1 - 1
LOWBIT_DEVICE void correct(int& low, int& high) {
  const bool low_up = high < 0 && (low >= -1 || high < -1);
  const bool high_up = low < 0 && (high >= 0 || low < -1);
  low += low_up;
  high += high_up;
}

// One thread makes one row's table.
__global__ void __launch_bounds__(kThreads) digits_kernel(const ScalarRepack p, int64_t rows) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int entries = 1 << p.bits;
  const bool exists = row < p.out_features;
  float amax = 0.0f;
  for (int e = 0; exists && e < entries; ++e) {
    amax = fmaxf(amax, fabsf(load_value(p.tables, p.tables_dtype, row * entries + e)));
  }
  const float inverse = static_cast<float>(kLargestEntry) / amax;
  const bool usable = inverse <= FLT_MAX;  // not with amax 0, nor where the inverse overflows
  p.row_scales[row] = usable ? amax / static_cast<float>(kLargestEntry) : 0.0f;
  int8_t* const digits = p.digits + row * 2 * entries;
  const auto digit = [&](int which, int e) {
    if (!usable) return 0;
    const int value = __float2int_rn(load_value(p.tables, p.tables_dtype, row * entries + e) * inverse);
    // value = 255 t1 + t0 with t0 in -128 .. 126 and t1 in -126 .. 126.
    const int shifted = value + 128 * kDigitBase + 128;  // not negative
    const int t1 = shifted / kDigitBase - 128;
    return which == 0 ? t1 : value - t1 * kDigitBase;
  };
  for (int which = 0; which < 2; ++which) {
    for (int e = 0; e < (p.bits == 4 ? 8 : entries); ++e) {
      int low = digit(which, e);
      if (p.bits == 4) {
        int high = digit(which, e + 8);
        correct(low, high);
        digits[which * entries + e + 8] = static_cast<int8_t>(high);
      }
      digits[which * entries + e] = static_cast<int8_t>(low);
    }
  }
}

struct Restore {
  const uint4* tiles;
  int64_t out_features, row_bytes;
  int32_t bits, superblocks;
  uint8_t* planes;
};

// One thread makes one byte of one row, of all planes.
__global__ void __launch_bounds__(kThreads) restore_kernel(const Restore p) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= p.out_features * p.row_bytes) return;
  const int64_t row = index / p.row_bytes, byte = index % p.row_bytes;
  const int within = static_cast<int>(byte % (kSuperblock / 8)),
            lane = static_cast<int>(row % 8) * 4 + within % 4;
  const int64_t block = row / kTileRows * p.superblocks + byte / (kSuperblock / 8);
  const auto* const words = reinterpret_cast<const uint32_t*>(p.tiles + block * p.bits * 32 + lane);
  uint32_t codes[2][2];
  load_codes(words, p.bits, within / 4 * 2, codes[0]);
  load_codes(words, p.bits, within / 4 * 2 + 1, codes[1]);
  const bool upper = row / 8 % 2 == 1;
  const uint32_t quads[2] = {upper ? codes[0][1] : codes[0][0], upper ? codes[1][1] : codes[1][0]};
  for (int plane = 0; plane < p.bits; ++plane) {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) bits |= (quads[i / 4] >> (8 * (i % 4) + p.bits - 1 - plane) & 1) << i;
    p.planes[(plane * p.out_features + row) * p.row_bytes + byte] = static_cast<uint8_t>(bits);
  }
}

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

int64_t scalar_tiles_bytes(int64_t out_features, int64_t in_features, int32_t bits) {
  return tiles_of(out_features) * superblocks_of(in_features) * bits * 32 * 16;
}

int64_t scalar_digits_bytes(int64_t out_features, int32_t bits) {
  return has_selectors(bits) ? tiles_of(out_features) * kTileRows * 2 * (1 << bits) : 0;
}

int64_t scalar_row_scales_size(int64_t out_features, int32_t bits) {
  return has_selectors(bits) ? tiles_of(out_features) * kTileRows : 0;
}

void repack_scalar(const ScalarRepack& repack, Stream stream) {
  const int64_t superblocks = superblocks_of(repack.in_features);
  const int64_t lanes = tiles_of(repack.out_features) * superblocks * 32;
  launch(tiles_kernel, {dim3(blocks_of(lanes)), dim3(kThreads)}, stream, repack, superblocks, lanes);
  if (!has_selectors(repack.bits)) return;
  const int64_t rows = tiles_of(repack.out_features) * kTileRows;
  launch(digits_kernel, {dim3(blocks_of(rows)), dim3(kThreads)}, stream, repack, rows);
}

void restore_scalar(const ScalarWeight& weight, uint8_t* planes, Stream stream) {
  const int64_t row_bytes = (weight.in_features + 7) / 8;
  launch(restore_kernel, {dim3(blocks_of(weight.out_features * row_bytes)), dim3(kThreads)}, stream,
         {weight.tiles, weight.out_features, row_bytes, weight.bits,
          static_cast<int32_t>(superblocks_of(weight.in_features)), planes});
}

}  // namespace lowbit::cuda::codebook
