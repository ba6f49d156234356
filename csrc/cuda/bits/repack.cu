// Canonical bit planes and group values to the layouts of the kernels, and back.
#include "cuda/bits/params.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;

dim3 blocks_of(int64_t items) {
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads));
}

LOWBIT_DEVICE int64_t thread_index() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

// One digit of a weight: planes first, first + 1, ... of the canonical weight.
struct DigitParams {
  const uint8_t* planes;
  uint8_t* unpacked;
  int64_t rows, inputs, row_bytes;  // of the canonical planes
  int32_t first, width;
  int64_t superblocks;
  uint32_t* words;
  int64_t count;  // words of the tiles, or bytes of the planes
};

// Where a weight lies in the tiles of a digit: word, and the bit of its least significant bit.
struct Place {
  int64_t word;
  int bit;
};

LOWBIT_DEVICE Place place_of(const DigitParams& p, int64_t row, int64_t input) {
  const int fields = 8 / p.width;
  const int64_t superblock = input / (kScaleInputs * fields);
  const int field = static_cast<int>(input / kScaleInputs % fields);
  const int inside = static_cast<int>(input % kScaleInputs);
  const int q = inside / 32, t = inside / 8 % 4, h = inside / 4 % 2, i = inside % 4;
  const int g = static_cast<int>(row % 8);
  const int r = 2 * h + static_cast<int>(row / 8 % 2);
  const int64_t step = ((row / kRowTile) * p.superblocks + superblock) * 4 + q;
  return {(step * 32 + 4 * g + t) * 4 + r, 8 * i + p.width * field};
}

// A thread writes one word of the tiles, 32 bits of one row: 4 neighbouring inputs of every field.
__global__ void __launch_bounds__(kThreads) repack_digit(const DigitParams p) {
  const int64_t index = thread_index();
  if (index >= p.count) return;
  const int r = static_cast<int>(index % 4), lane = static_cast<int>(index / 4 % 32);
  const int q = static_cast<int>(index / 128 % 4);
  const int64_t superblock = index / 512 % p.superblocks, tile = index / 512 / p.superblocks;
  const int64_t row = tile * kRowTile + lane / 4 + 8 * (r % 2);
  const int fields = 8 / p.width;
  uint32_t word = 0;
  for (int field = 0; field < fields && row < p.rows; ++field) {
    const int64_t first = (superblock * fields + field) * kScaleInputs + 32 * q + 8 * (lane % 4);
    if (first >= p.inputs) break;
    for (int bit = 0; bit < p.width; ++bit) {
      const int64_t plane = p.first + p.width - 1 - bit;
      const uint8_t bits = p.planes[(plane * p.rows + row) * p.row_bytes + first / 8] >> (4 * (r / 2));
      for (int i = 0; i < 4; ++i)
        word |= static_cast<uint32_t>(bits >> i & 1) << (8 * i + p.width * field + bit);
    }
  }
  p.words[index] = word;
}

// A thread writes one byte of one plane.
__global__ void __launch_bounds__(kThreads) unpack_digit(const DigitParams p) {
  const int64_t index = thread_index();
  if (index >= p.count) return;
  const int64_t byte = index % p.row_bytes, row = index / p.row_bytes % p.rows;
  const int bit = p.width - 1 - static_cast<int>(index / p.row_bytes / p.rows);
  uint8_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    const Place place = place_of(p, row, 8 * byte + i);
    bits |= static_cast<uint8_t>((p.words[place.word] >> (place.bit + bit) & 1) << i);
  }
  p.unpacked[p.first * p.rows * p.row_bytes + index] = bits;
}

struct GroupParams {
  const void* from;
  void* to;
  int64_t rows, padded_rows, groups, units, units_per_group, used_units;
};

// Units of a row from its groups: each group repeated over the units it covers, zeros behind the last.
template <class T>
__global__ void __launch_bounds__(kThreads) repack_units(const GroupParams p) {
  const int64_t index = thread_index();
  if (index >= p.padded_rows * p.units) return;
  const int64_t row = index / p.units, unit = index % p.units;
  const bool used = row < p.rows && unit < p.used_units;
  static_cast<T*>(p.to)[index] =
      used ? static_cast<const T*>(p.from)[row * p.groups + unit / p.units_per_group] : T{0};
}

template <class T>
__global__ void __launch_bounds__(kThreads) unpack_units(const GroupParams p) {
  const int64_t index = thread_index();
  if (index >= p.rows * p.groups) return;
  const int64_t row = index / p.groups, group = index % p.groups;
  static_cast<T*>(p.to)[index] = static_cast<const T*>(p.from)[row * p.units + group * p.units_per_group];
}

GroupParams group_params(const void* from, void* to, int64_t out_features, int64_t in_features,
                         int64_t group_size) {
  const Unit unit = unit_of(group_size);
  const int64_t group = group_size == -1 ? in_features : group_size;
  const int64_t unit_inputs = unit == Unit::row ? group : static_cast<int64_t>(unit);
  GroupParams p{};
  p.from = from;
  p.to = to;
  p.rows = out_features;
  p.padded_rows = row_tiles(out_features) * kRowTile;
  p.groups = (in_features + group - 1) / group;
  p.units = unit_count(in_features, unit);
  p.units_per_group = group / unit_inputs;
  p.used_units = (in_features + unit_inputs - 1) / unit_inputs;
  return p;
}

template <class Launch>
void for_each_digit(int64_t out_features, int64_t in_features, const Digits& digits, uint4* tiles,
                    const Launch& launch_digit) {
  DigitParams p{};
  p.rows = out_features;
  p.inputs = in_features;
  p.row_bytes = (in_features + 7) / 8;
  p.words = reinterpret_cast<uint32_t*>(tiles);
  for (int32_t d = 0; d < digits.count; ++d) {
    p.width = digits.widths[d];
    p.superblocks = superblocks(in_features, p.width);
    const int64_t words = digit_bytes(out_features, in_features, p.width) / 4;
    launch_digit(p, words);
    p.first += p.width;
    p.words += words;
  }
}

void check_grid(int64_t items) {
  if (items / kThreads >= INT32_MAX) {
    throw Error(LOWBIT_UNSUPPORTED, "a weight of %lld elements is beyond one launch",
                static_cast<long long>(items));
  }
}

}  // namespace

void repack_tiles(const uint8_t* planes, int64_t out_features, int64_t in_features, const Digits& digits,
                  uint4* tiles, Stream stream) {
  for_each_digit(out_features, in_features, digits, tiles, [&](DigitParams p, int64_t words) {
    p.planes = planes;
    p.count = words;
    check_grid(words);
    launch(repack_digit, {blocks_of(words), dim3(kThreads)}, stream, p);
  });
}

void unpack_tiles(const uint4* tiles, int64_t out_features, int64_t in_features, const Digits& digits,
                  uint8_t* planes, Stream stream) {
  for_each_digit(out_features, in_features, digits, const_cast<uint4*>(tiles), [&](DigitParams p, int64_t) {
    p.unpacked = planes;
    p.count = p.width * p.rows * p.row_bytes;
    check_grid(p.count);
    launch(unpack_digit, {blocks_of(p.count), dim3(kThreads)}, stream, p);
  });
}

void repack_groups(const void* values, int64_t element_bytes, int64_t out_features, int64_t in_features,
                   int64_t group_size, void* units, Stream stream) {
  const GroupParams p = group_params(values, units, out_features, in_features, group_size);
  check_grid(p.padded_rows * p.units);
  const auto kernel = element_bytes == 2 ? repack_units<uint16_t> : repack_units<uint32_t>;
  launch(kernel, {blocks_of(p.padded_rows * p.units), dim3(kThreads)}, stream, p);
}

void unpack_groups(const void* units, int64_t element_bytes, int64_t out_features, int64_t in_features,
                   int64_t group_size, void* values, Stream stream) {
  const GroupParams p = group_params(units, values, out_features, in_features, group_size);
  check_grid(p.rows * p.groups);
  const auto kernel = element_bytes == 2 ? unpack_units<uint16_t> : unpack_units<uint32_t>;
  launch(kernel, {blocks_of(p.rows * p.groups), dim3(kThreads)}, stream, p);
}

}  // namespace lowbit::cuda
