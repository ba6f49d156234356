#include "python/packing.h"

#include <cstring>

namespace lowbit::python {
namespace {

// Packs one row at a time: set(row, k) is the bit of input k.
template <typename Bit>
py::array_t<uint8_t> pack(int64_t rows, int64_t in_features, Bit&& bit) {
  py::array_t<uint8_t> packed({rows, ceil_div(in_features, 8)});
  uint8_t* out = packed.mutable_data();
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t first = 0; first < in_features; first += 8) {
      unsigned byte = 0;
      for (int64_t k = first; k < std::min(first + 8, in_features); ++k)
        byte |= unsigned{bit(n, k)} << (k - first);
      *out++ = static_cast<uint8_t>(byte);
    }
  }
  return packed;
}

}  // namespace

py::array_t<uint8_t> pack_signs(const py::array& values) {
  expect_shape(values, "values", {kAny, kAny});
  const int64_t rows = values.shape(0);
  const int64_t in_features = values.shape(1);
  if (py::isinstance<py::array_t<bool>>(values)) {
    const auto* v = static_cast<const bool*>(values.data());
    return pack(rows, in_features, [&](int64_t n, int64_t k) { return v[n * in_features + k]; });
  }
  expect<float>(values, "values", {kAny, kAny});
  const auto* v = static_cast<const float*>(values.data());
  return pack(rows, in_features, [&](int64_t n, int64_t k) {
    const float w = v[n * in_features + k];
    if (w != w) raise("ValueRangeError", "values contains NaN", py::make_tuple(n, k), py::str("numbers"));
    return w >= 0.0f;
  });
}

py::array_t<int8_t> unpack_signs(const py::array& packed, int64_t in_features) {
  const int64_t row_bytes = ceil_div(in_features, 8);
  expect<uint8_t>(packed, "packed", {kAny, row_bytes});
  const int64_t rows = packed.shape(0);
  const auto* in = static_cast<const uint8_t*>(packed.data());
  py::array_t<int8_t> values({rows, in_features});
  int8_t* out = values.mutable_data();
  for (int64_t n = 0; n < rows; ++n, in += row_bytes) {
    for (int64_t k = 0; k < in_features; ++k) *out++ = (in[k / 8] >> (k % 8)) & 1 ? 1 : -1;
    const int64_t used = in_features % 8;
    if (used != 0 && in[row_bytes - 1] >> used != 0) {
      raise("FormatError", "packed has padding bits that are not zero", py::str("row " + std::to_string(n)));
    }
  }
  return values;
}

py::array_t<uint8_t> tile_bits(const py::array& packed, int64_t in_features) {
  const int64_t row_bytes = ceil_div(in_features, 8);
  const bool planar = packed.ndim() == 3;
  if (planar) {
    expect<uint8_t>(packed, "packed", {kAny, kAny, row_bytes});
  } else {
    expect<uint8_t>(packed, "packed", {kAny, row_bytes});
  }
  const int64_t planes = planar ? packed.shape(0) : 1;
  const int64_t rows = packed.shape(planar ? 1 : 0);
  const int64_t num_tiles = ceil_div(rows, LOWBIT_TILE_ROWS);
  const int64_t blocks = ceil_div(in_features, LOWBIT_BLOCK_INPUTS);
  const auto* in = static_cast<const uint8_t*>(packed.data());
  py::array_t<uint8_t> tiles({num_tiles, planes, blocks, int64_t{LOWBIT_TILE_ROWS}, int64_t{4}});
  uint8_t* out = tiles.mutable_data();
  std::memset(out, 0, tiles.nbytes());
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t p = 0; p < planes; ++p) {
      const uint8_t* row = in + (p * rows + n) * row_bytes;
      uint8_t* tile =
          out + ((n / LOWBIT_TILE_ROWS * planes + p) * blocks * LOWBIT_TILE_ROWS + n % LOWBIT_TILE_ROWS) * 4;
      for (int64_t byte = 0; byte < row_bytes; ++byte)
        tile[byte / 4 * LOWBIT_TILE_ROWS * 4 + byte % 4] = row[byte];
    }
  }
  return tiles;
}

py::array tile_scales(const py::array& scales) {
  expect_shape(scales, "scales", {kAny, kAny});
  if (!py::isinstance<py::array_t<int16_t>>(scales)) float_dtype(scales, "scales");
  const int64_t rows = scales.shape(0);
  const int64_t groups = scales.shape(1);
  const int64_t size = scales.itemsize();
  const auto* in = static_cast<const char*>(scales.data());
  py::array tiled(scales.dtype(), {ceil_div(rows, LOWBIT_TILE_ROWS), groups, int64_t{LOWBIT_TILE_ROWS}});
  auto* out = static_cast<char*>(tiled.mutable_data());
  std::memset(out, 0, tiled.nbytes());
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t to = (n / LOWBIT_TILE_ROWS * groups + g) * LOWBIT_TILE_ROWS + n % LOWBIT_TILE_ROWS;
      std::memcpy(out + to * size, in + (n * groups + g) * size, size);
    }
  }
  return tiled;
}

}  // namespace lowbit::python
