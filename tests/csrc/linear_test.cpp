// lowbit_signs_linear and lowbit_planes_linear against double precision, on every instruction set of this
// machine.
//
// The reference multiplies the kernels' own activations (lowbit_signs_prologue, lowbit_quantize_activations,
// both checked against plain formulas first) with the canonical weight, so integer precisions must agree to
// rounding.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/half.h"
#include "lowbit.h"

namespace {

int failures = 0;

#define EXPECT(condition, ...)                                             \
  do {                                                                     \
    if (!(condition) && ++failures <= 20) {                                \
      std::printf("%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                            \
      std::printf("\n");                                                   \
    }                                                                      \
  } while (0)

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::mt19937 random_bits(20261121);

float normal() {
  static std::normal_distribution<float> distribution;
  return distribution(random_bits);
}
int64_t pick(std::initializer_list<int64_t> values) {
  return values.begin()[random_bits() % values.size()];
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Values in one of the three dtypes, with what they are exactly.
struct Values {
  lowbit_dtype dtype = LOWBIT_F32;
  std::vector<std::byte> bytes;

  Values() = default;
  Values(lowbit_dtype type, int64_t size) : dtype(type), bytes(size * lowbit::dtype_size(type)) {}
  void set(int64_t i, float value) { lowbit::store_value(bytes.data(), dtype, i, value); }
  float at(int64_t i) const { return lowbit::load_value(bytes.data(), dtype, i); }
  const void* data() const { return bytes.empty() ? nullptr : bytes.data(); }
};

lowbit_dtype any_dtype() {
  return static_cast<lowbit_dtype>(random_bits() % 3);
}

// A layer in canonical order, and the tiles that the kernels read.
struct Layer {
  int64_t n, k, planes, group_size, groups;
  std::vector<uint8_t> code;  // [n][k], bit planes - 1 is the first plane
  std::vector<uint8_t> tiles;
  Values scales;
  std::vector<int16_t> offsets;
  int32_t experts = 0;
  Values router, in_scales, out_scales;

  Layer(int64_t rows, int64_t cols, int64_t bits, int64_t group, bool scaled, bool with_offsets, int32_t e)
      : n(rows), k(cols), planes(bits), group_size(group), experts(e) {
    const int64_t row_tiles = ceil_div(n, 64), blocks = ceil_div(k, 32);
    groups = group == -1 ? 1 : ceil_div(k, group);
    code.resize(n * k);
    tiles.resize(row_tiles * planes * blocks * 256);
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t col = 0; col < k; ++col) {
        const uint8_t value = random_bits() >> (32 - planes);
        code[row * k + col] = value;
        for (int64_t p = 0; p < planes; ++p) {
          const int64_t dword = ((row / 64 * planes + p) * blocks + col / 32) * 64 + row % 64;
          tiles[dword * 4 + col % 32 / 8] |= (value >> (planes - 1 - p) & 1) << col % 8;
        }
      }
    }
    const lowbit_dtype dtype = any_dtype();
    if (scaled) {
      scales = Values(dtype, row_tiles * groups * 64);
      for (int64_t i = 0; i < row_tiles * groups * 64; ++i)
        scales.set(i, row_exists(i) ? 0.05f * normal() : 0);
    }
    if (with_offsets) {
      offsets.resize(row_tiles * groups * 64);
      for (size_t i = 0; i < offsets.size(); ++i) {
        if (row_exists(i)) offsets[i] = static_cast<int16_t>(random_bits() % 64) - 32;
      }
    }
    const lowbit_dtype expert_dtype = any_dtype();
    router = Values(expert_dtype, experts * k);
    in_scales = Values(expert_dtype, experts * k);
    out_scales = Values(expert_dtype, experts * n);
    for (int64_t i = 0; i < experts * k; ++i) {
      router.set(i, normal() / std::sqrt(static_cast<float>(k)));
      in_scales.set(i, 1.0f + 0.3f * normal());
    }
    for (int64_t i = 0; i < experts * n; ++i) out_scales.set(i, 0.1f + 0.03f * normal());
  }

  bool row_exists(int64_t scale) const { return scale / (groups * 64) * 64 + scale % 64 < n; }
  int64_t scale_index(int64_t row, int64_t col) const {
    const int64_t group = group_size == -1 ? 0 : col / group_size;
    return (row / 64 * groups + group) * 64 + row % 64;
  }
  // Weight from the first `active` planes.
  double weight(int64_t row, int64_t col, int64_t active) const {
    const int value = 2 * (code[row * k + col] >> (planes - active)) - ((1 << active) - 1);
    const int64_t s = scale_index(row, col);
    const double shifted = value * std::exp2(planes - active) + (offsets.empty() ? 0 : offsets[s]);
    return shifted * (scales.bytes.empty() ? 1.0 : scales.at(s));
  }

  lowbit_signs describe() const {
    lowbit_signs signs{};
    signs.bits = {n,
                  k,
                  static_cast<int32_t>(planes),
                  tiles.data(),
                  group_size,
                  scales.data(),
                  scales.dtype,
                  offsets.empty() ? nullptr : offsets.data()};
    signs.experts = experts;
    signs.router = experts > 1 ? router.data() : nullptr;
    signs.in_scales = in_scales.data();
    signs.out_scales = out_scales.data();
    signs.out_scales_stride = n;
    signs.dtype = in_scales.dtype;
    return signs;
  }
};

struct Tokens {
  int64_t rows, cols, stride;
  Values values;

  Tokens(int64_t m, int64_t k, lowbit_dtype dtype, int64_t gap)
      : rows(m), cols(k), stride(k + gap), values(dtype, m * (k + gap) + 1) {
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t col = 0; col < stride; ++col) {
        // Magnitudes that differ, an outlier, and poison between the rows.
        const float spread = row % 3 == 0 ? 1.0f : 7.0f;
        values.set(row * stride + col, col >= k ? kNaN : col == k / 2 ? 20.0f * spread : spread * normal());
      }
    }
  }
  float at(int64_t row, int64_t col) const { return values.at(row * stride + col); }
  lowbit_input describe(int64_t first, int64_t count) const {
    const auto* data = static_cast<const std::byte*>(values.data());
    return {data + first * stride * lowbit::dtype_size(values.dtype), values.dtype, count, cols, stride};
  }
};

double half_ulp(lowbit_dtype dtype, double value) {
  if (dtype == LOWBIT_F16) return std::abs(value) * 0x1p-11 + 0x1p-25;
  return std::abs(value) * (dtype == LOWBIT_F32 ? 0x1p-24 : 0x1p-8) + 1e-37;
}

struct Quantized {
  std::vector<int32_t> codes;
  std::vector<float> scales;
  int64_t groups;
};

// The formulas of the two quantisers, one value after the other.
Quantized plain_quantize(const std::vector<float>& z, int64_t m, int64_t k, lowbit_precision precision,
                         int bits) {
  const int64_t group = bits == 0 && precision == LOWBIT_FAST ? 128 : k;
  Quantized q{std::vector<int32_t>(m * k), std::vector<float>(m * ceil_div(k, group)), ceil_div(k, group)};
  const float most = bits > 0 ? (1 << bits) - 1 : precision == LOWBIT_FAST ? 127 : 32639;
  for (int64_t row = 0; row < m; ++row) {
    const float* x = z.data() + row * k;
    const bool finite = std::all_of(x, x + k, [](float value) { return std::isfinite(value); });
    for (int64_t g = 0; g < q.groups; ++g) {
      const int64_t begin = g * group, end = std::min(k, begin + group);
      float amax = 0;
      for (int64_t col = begin; col < end; ++col) amax = std::max(amax, std::abs(x[col]));
      const float inverse = most / amax;
      const bool usable = finite && std::isfinite(inverse);
      q.scales[row * q.groups + g] = !finite ? kNaN : usable ? amax / most : 0.0f;
      for (int64_t col = begin; col < end && usable; ++col) {
        const float t = x[col] * inverse;
        int32_t& code = q.codes[row * k + col];
        if (bits == 0) {
          code = static_cast<int32_t>(std::clamp(std::nearbyint(t), -most, most));
        } else {
          const float u = std::clamp(std::floor((t + (most + 1)) * 0.5f), 0.0f, most);
          code = 2 * static_cast<int32_t>(u) - static_cast<int32_t>(most);
        }
      }
    }
  }
  return q;
}

bool same_bits(const void* a, const void* b, size_t bytes) {
  return std::memcmp(a, b, bytes) == 0;
}

// The activations one segment's product sees, checked on the way; `scales` come back expanded to one per
// input.
struct Seen {
  std::vector<float> gates;
  std::vector<double> x;  // [m][k], dequantised
};

Seen activations(const Layer& layer, const Tokens& tokens, lowbit_precision precision, int bits,
                 const char* name) {
  const int64_t m = tokens.rows, k = layer.k;
  const lowbit_signs signs = layer.describe();
  const lowbit_input input = tokens.describe(0, m);
  Seen seen{std::vector<float>(m * layer.experts), std::vector<double>(m * k)};
  std::vector<float> z(m * k);
  if (layer.planes == 1) {
    EXPECT(lowbit_signs_prologue(&signs, &input, seen.gates.data(), z.data()) == LOWBIT_OK, "%s: %s", name,
           lowbit_last_error());
  } else {
    for (int64_t i = 0; i < m * k; ++i) z[i] = tokens.at(i / k, i % k);
  }

  for (int64_t row = 0; row < m && layer.planes == 1; ++row) {
    std::vector<double> gates(layer.experts);
    double total = 0;
    for (int e = 0; e < layer.experts; ++e) {
      double logit = 0;
      for (int64_t col = 0; col < k; ++col)
        logit += double{tokens.at(row, col)} * layer.router.at(e * k + col);
      total += gates[e] = layer.experts == 1 ? 1.0 : std::exp(logit);
    }
    bool finite = true;
    for (int64_t col = 0; col < k; ++col) finite &= std::isfinite(tokens.at(row, col));
    if (!finite) continue;
    for (int e = 0; e < layer.experts; ++e) {
      EXPECT(std::abs(seen.gates[row * layer.experts + e] - gates[e] / total) < 2e-5,
             "%s: gate %d of token %lld", name, e, static_cast<long long>(row));
    }
    for (int64_t col = 0; col < k; ++col) {
      double mix = layer.experts == 0 ? 1.0 : 0.0;
      for (int e = 0; e < layer.experts; ++e) {
        mix += seen.gates[row * layer.experts + e] * double{layer.in_scales.at(e * k + col)};
      }
      const double expected = tokens.at(row, col) * mix;
      EXPECT(std::abs(z[row * k + col] - expected) <= 1e-6 * std::abs(tokens.at(row, col)) * 4, "%s: z",
             name);
    }
  }

  if (precision == LOWBIT_EXACT && bits == 0) {
    std::copy(z.begin(), z.end(), seen.x.begin());
    return seen;
  }
  const Quantized plain = plain_quantize(z, m, k, precision, bits);
  Quantized own{std::vector<int32_t>(m * k, 77), std::vector<float>(m * plain.groups), plain.groups};
  const lowbit_input z_input{z.data(), LOWBIT_F32, m, k, k};
  EXPECT(lowbit_quantize_activations(&z_input, bits, precision, own.codes.data(), own.scales.data()) ==
             LOWBIT_OK,
         "%s: %s", name, lowbit_last_error());
  EXPECT(own.codes == plain.codes, "%s: codes differ from the formula", name);
  for (size_t i = 0; i < own.scales.size(); ++i) {
    EXPECT(own.scales[i] == plain.scales[i] ||
               (own.scales[i] != own.scales[i] && plain.scales[i] != plain.scales[i]),
           "%s: scale %zu is %g, formula %g", name, i, own.scales[i], plain.scales[i]);
  }
  for (int64_t i = 0; i < m * k; ++i) {
    const int64_t group = plain.groups == 1 ? 0 : i % k / 128;
    seen.x[i] = double{own.scales[i / k * plain.groups + group]} * own.codes[i];
  }
  return seen;
}

struct Call {
  std::vector<Layer> layers;
  int64_t active = 1;
  int activation_bits = 0;
  lowbit_precision precision = LOWBIT_FAST;
  Values bias;
  lowbit_dtype y_dtype = LOWBIT_F32;
  int64_t y_gap = 0;

  int64_t out_features() const {
    int64_t n = 0;
    for (const Layer& layer : layers) n += layer.n;
    return n;
  }
  Values run(const Tokens& tokens, int64_t first, int64_t count, const char* name) const {
    const int64_t n = out_features();
    Values y(y_dtype, count * (n + y_gap) + 1);
    std::fill(y.bytes.begin(), y.bytes.end(), std::byte{0x5a});
    const lowbit_input input = tokens.describe(first, count);
    const lowbit_output output{y.bytes.data(), y_dtype, count, n, n + y_gap};
    const lowbit_vector bias_table{bias.data(), bias.dtype, n};
    lowbit_status status;
    if (layers[0].planes == 1) {
      std::vector<lowbit_signs> segments;
      for (const Layer& layer : layers) segments.push_back(layer.describe());
      status = lowbit_signs_linear(segments.data(), static_cast<int32_t>(segments.size()), &input,
                                   &bias_table, precision, &output);
    } else {
      const lowbit_bits weight = layers[0].describe().bits;
      status = lowbit_planes_linear(&weight, static_cast<int32_t>(active), &input, activation_bits,
                                    &bias_table, precision, &output);
    }
    EXPECT(status == LOWBIT_OK, "%s: %s", name, lowbit_last_error());
    return y;
  }
};

void check_call(const Call& call, const Tokens& tokens, const char* name) {
  const int64_t m = tokens.rows, n = call.out_features(), k = tokens.cols, stride = n + call.y_gap;
  const int64_t row_bytes = n * lowbit::dtype_size(call.y_dtype);
  lowbit_set_num_threads(1);
  const Values y = call.run(tokens, 0, m, name);

  for (int threads = 2; threads <= 3; ++threads) {
    lowbit_set_num_threads(threads);
    const Values again = call.run(tokens, 0, m, name);
    EXPECT(again.bytes == y.bytes, "%s: %d threads change the result", name, threads);
  }
  for (int64_t row = 0; row < m; ++row) {
    const Values alone = call.run(tokens, row, 1, name);
    const auto* expected = y.bytes.data() + row * stride * lowbit::dtype_size(call.y_dtype);
    EXPECT(same_bits(alone.bytes.data(), expected, row_bytes), "%s: token %lld alone differs", name,
           static_cast<long long>(row));
    const auto* gap = expected + row_bytes;
    EXPECT(std::all_of(gap, gap + call.y_gap * lowbit::dtype_size(call.y_dtype),
                       [](std::byte b) { return b == std::byte{0x5a}; }),
           "%s: wrote between the rows of y", name);
  }

  int64_t column = 0;
  for (const Layer& layer : call.layers) {
    const Seen seen = activations(layer, tokens, call.precision, call.activation_bits, name);
    for (int64_t out = 0; out < layer.n; ++out) {
      std::vector<double> weight(k);
      double weight_norm = 0;
      for (int64_t col = 0; col < k; ++col) {
        weight[col] = layer.weight(out, col, call.active);
        weight_norm += weight[col] * weight[col];
      }
      for (int64_t row = 0; row < m; ++row) {
        double sum = 0, x_norm = 0, mix = layer.experts == 0 ? 1.0 : 0.0;
        bool finite = true;
        for (int64_t col = 0; col < k; ++col) {
          const double value = seen.x[row * k + col];
          finite &= std::isfinite(tokens.at(row, col));
          sum += value * weight[col];
          x_norm += value * value;
        }
        for (int e = 0; e < layer.experts; ++e) {
          mix += double{seen.gates[row * layer.experts + e]} * layer.out_scales.at(e * layer.n + out);
        }
        const float found = y.at(row * stride + column + out);
        if (!finite) {
          EXPECT(std::isnan(found), "%s: token %lld is not finite, y is %g", name,
                 static_cast<long long>(row), found);
          continue;
        }
        const double expected = sum * mix + (call.bias.bytes.empty() ? 0.0 : call.bias.at(column + out));
        const double allowed =
            1e-5 * std::sqrt(x_norm * weight_norm) * std::abs(mix) + 1.01 * half_ulp(call.y_dtype, expected);
        EXPECT(std::abs(found - expected) <= allowed,
               "%s: y[%lld, %lld] is %.9g, reference %.9g, allowed %.3g", name, static_cast<long long>(row),
               static_cast<long long>(column + out), found, expected, allowed);
      }
    }
    column += layer.n;
  }
}

// The dimensions that matter: one of anything, around a block, a group, a tile, the largest register block.
int64_t any_k() {
  return pick({1, 7, 31, 32, 33, 96, 127, 128, 129, 160, 255, 300, 521});
}
int64_t any_n() {
  return pick({1, 2, 63, 64, 65, 129, 200});
}
int64_t any_m() {
  return pick({1, 1, 2, 3, 4, 5, 8, 17, 31});
}

std::string describe(const Call& call, const Tokens& tokens, const char* isa) {
  const Layer& first = call.layers[0];
  char text[256];
  std::snprintf(
      text, sizeof text,
      "%s M=%lld N=%lld K=%lld segments=%zu experts=%d planes=%lld/%lld group=%lld scales=%d offsets=%d "
      "precision=%d A=%d x=%d y=%d",
      isa, static_cast<long long>(tokens.rows), static_cast<long long>(call.out_features()),
      static_cast<long long>(tokens.cols), call.layers.size(), first.experts,
      static_cast<long long>(call.active), static_cast<long long>(first.planes),
      static_cast<long long>(first.group_size), static_cast<int>(first.scales.dtype),
      first.offsets.empty() ? 0 : 1, call.precision, call.activation_bits, tokens.values.dtype, call.y_dtype);
  return text;
}

void random_call(bool signs, const char* isa) {
  const int64_t k = any_k();
  Call call;
  call.precision = static_cast<lowbit_precision>(random_bits() % 3);
  if (signs) {
    const int64_t segments = pick({1, 1, 2, 3});
    for (int64_t s = 0; s < segments; ++s) {
      const auto experts = static_cast<int32_t>(pick({0, 1, 2, 4, 8}));
      const bool scaled = random_bits() % 2 == 0;
      call.layers.emplace_back(any_n(), k, 1, pick({-1, 32, 128, 160}), scaled, random_bits() % 8 == 0,
                               experts);
    }
  } else {
    const int64_t planes = pick({1, 2, 3, 4, 5, 6, 7, 8});
    // One plane of this family is a layer of signs without experts.
    call.layers.emplace_back(any_n(), k, planes, pick({-1, 32, 64, 128, 160}), true, random_bits() % 2 == 0,
                             0);
    call.active = 1 + random_bits() % planes;
    call.activation_bits = static_cast<int>(pick({0, 0, 1, 2, 3, 4, 7, 8}));
    if (planes == 1) call.activation_bits = 0;
  }
  if (random_bits() % 2 == 0) {
    call.bias = Values(any_dtype(), call.out_features());
    for (int64_t i = 0; i < call.out_features(); ++i) call.bias.set(i, normal());
  }
  call.y_dtype = any_dtype();
  call.y_gap = pick({0, 3});
  Tokens tokens(any_m(), k, any_dtype(), pick({0, 5}));
  const uint32_t kind = random_bits() % 8;
  const int64_t row = random_bits() % tokens.rows, col = random_bits() % k;
  if (kind == 0) tokens.values.set(row * tokens.stride + col, kNaN);
  if (kind == 1) tokens.values.set(row * tokens.stride + col, -kInfinity);
  if (kind == 2) {
    for (int64_t i = 0; i < k; ++i) tokens.values.set(row * tokens.stride + i, i % 2 == 0 ? 0.0f : -0.0f);
  }
  check_call(call, tokens, describe(call, tokens, isa).c_str());
}

// Magnitudes at the ends of fp32: inverses that overflow, products that must not.
void extreme_magnitudes(const char* isa) {
  for (float magnitude : {1e-45f, 1e-38f, 3.8e-37f, 1e-34f, 1e-30f, 3e38f}) {
    std::vector<float> x(3 * 200);
    for (size_t i = 0; i < x.size(); ++i) x[i] = magnitude * (static_cast<float>(i % 7) / 6 - 0.4f);
    for (int bits : {0, 1, 5, 8}) {
      for (lowbit_precision precision : {LOWBIT_FAST, LOWBIT_HIGH}) {
        const Quantized plain = plain_quantize(x, 3, 200, precision, bits);
        Quantized own = plain;
        const lowbit_input input{x.data(), LOWBIT_F32, 3, 200, 200};
        EXPECT(lowbit_quantize_activations(&input, bits, precision, own.codes.data(), own.scales.data()) ==
                   LOWBIT_OK,
               "%s", lowbit_last_error());
        EXPECT(own.codes == plain.codes && own.scales == plain.scales, "%s magnitude %g bits %d precision %d",
               isa, magnitude, bits, precision);
      }
    }
  }
}

// More tokens than one pass of the prologue takes, and long sums.
void long_inputs(const char* isa) {
  for (lowbit_precision precision : {LOWBIT_FAST, LOWBIT_HIGH}) {
    Call call;
    call.precision = precision;
    call.layers.emplace_back(70, 9000, 1, -1, false, false, 2);
    call.y_gap = 1;
    Tokens tokens(67, 9000, LOWBIT_BF16, 0);
    check_call(call, tokens, describe(call, tokens, isa).c_str());
  }
  Call call;
  call.layers.emplace_back(5, 40000, 8, -1, true, false, 0);
  call.active = 8;
  call.activation_bits = 8;
  Tokens tokens(2, 40000, LOWBIT_F32, 0);
  for (int64_t i = 0; i < tokens.cols; ++i)
    tokens.values.set(i, 1.0f);  // the largest sums an integer must hold
  check_call(call, tokens, describe(call, tokens, isa).c_str());
}

// Hosts that leave it to no chance which thread has work: the last one takes most of the others', or all of
// them start together.
void last_chunk_first(int32_t chunks, void (*body)(void*, int32_t), void* context) {
  for (int32_t chunk = chunks; chunk-- > 0;) body(context, chunk);
}
void all_chunks_together(int32_t chunks, void (*body)(void*, int32_t), void* context) {
  std::barrier start(chunks);
  std::vector<std::jthread> threads;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    threads.emplace_back([&, chunk] {
      start.arrive_and_wait();
      body(context, chunk);
    });
  }
}

// Enough tiles for tables of a single token, which every thread makes for itself: once, or for each of the
// segments that its tiles belong to.
void large_layers(const char* isa) {
  for (const int32_t experts : {0, 1, 3}) {
    Call call;
    for (const int64_t n : {705, 900, 321}) call.layers.emplace_back(n, 1031, 1, -1, true, false, experts);
    Tokens tokens(5, 1031, LOWBIT_F16, 0);
    check_call(call, tokens, describe(call, tokens, isa).c_str());
  }
  Call call;
  call.layers.emplace_back(1000, 1031, 8, 128, true, true, 0);
  Tokens tokens(2, 1031, LOWBIT_F32, 0);
  check_call(call, tokens, describe(call, tokens, isa).c_str());
}

#if defined(__x86_64__)
// Engines with tiles of their own set their shapes once a thread; a call leaves them. What was in the tiles
// is gone where the call uses them, and only there.
void keeps_tiles(int32_t planes, int64_t tokens, bool used) {
  struct alignas(64) Shapes {
    uint8_t bytes[64];
  } before{}, after{};
  before.bytes[0] = 1;            // palette
  before.bytes[16 + 2 * 3] = 32;  // tile 3: 32 bytes by 7 rows
  before.bytes[48 + 3] = 7;
  asm volatile("ldtilecfg %0" ::"m"(before));
  alignas(64) uint8_t content[7][32], left[7][32];
  std::memset(content, 1, sizeof content);
  asm volatile("tileloadd (%0, %1), %%tmm3" ::"r"(content), "r"(sizeof content[0]) : "memory");
  constexpr int64_t kInputs = 256, kOutputs = 64;
  std::vector<uint8_t> tiles(planes * kInputs / 32 * 256);
  std::vector<float> scales(kOutputs, 1.0f), x(tokens * kInputs, 1.0f), y(tokens * kOutputs);
  const lowbit_bits weight{kOutputs, kInputs, planes, tiles.data(), -1, scales.data(), LOWBIT_F32, nullptr};
  const lowbit_input in{x.data(), LOWBIT_F32, tokens, kInputs, kInputs};
  const lowbit_output out{y.data(), LOWBIT_F32, tokens, kOutputs, kOutputs};
  EXPECT(lowbit_planes_linear(&weight, planes, &in, 0, nullptr, LOWBIT_FAST, &out) == LOWBIT_OK, "%s",
         lowbit_last_error());
  asm volatile("sttilecfg %0" : "=m"(after));
  asm volatile("tilestored %%tmm3, (%0, %1)" ::"r"(left), "r"(sizeof left[0]) : "memory");
  asm volatile("tilerelease");
  EXPECT(std::memcmp(&before, &after, sizeof(before)) == 0, "a call changed the shapes of the host's tiles");
  EXPECT((std::memcmp(content, left, sizeof left) != 0) == used, "%d planes, %d tokens and tiles", planes,
         static_cast<int>(tokens));
  const int32_t sum = -((1 << planes) - 1) * kInputs;
  EXPECT(std::fabs(y[0] - sum) < -1e-3f * sum, "%f for %d", static_cast<double>(y[0]), sum);
}
#endif

void expect_failure(lowbit_status status, const char* part, int line) {
  const std::string sentence = lowbit_last_error();
  EXPECT(status == LOWBIT_INVALID_ARGUMENT && sentence.find(part) != std::string::npos,
         "line %d: status %d, sentence '%s', expected '%s'", line, status, sentence.c_str(), part);
}
#define EXPECT_FAILURE(call, part) expect_failure(call, part, __LINE__)

void rejected_arguments() {
  const Layer layer(65, 100, 1, 32, true, false, 2);
  const Layer wide(65, 100, 4, 32, true, false, 0);
  const Tokens tokens(2, 100, LOWBIT_F32, 0);
  std::vector<float> result(2 * 65, 1.0f), table(130);
  const lowbit_signs good = layer.describe();
  const lowbit_bits good_weight = wide.describe().bits;
  const lowbit_input x = tokens.describe(0, 2);
  const lowbit_output y{result.data(), LOWBIT_F32, 2, 65, 65};

  const auto signs = [&](auto change) {
    lowbit_signs segment = good;
    lowbit_input input = x;
    lowbit_output output = y;
    lowbit_vector bias{table.data(), LOWBIT_F32, 65};
    change(segment, input, output, bias);
    return lowbit_signs_linear(&segment, 1, &input, &bias, LOWBIT_FAST, &output);
  };
  using S = lowbit_signs&;
  using I = lowbit_input&;
  using O = lowbit_output&;
  using V = lowbit_vector&;
  EXPECT(signs([](S, I, O, V) {}) == LOWBIT_OK, "%s", lowbit_last_error());
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.group_size = 48; }), "segment 0 has group_size 48");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.group_size = 0; }), "group_size 0");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.group_size = -2; }), "group_size -2");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.group_size = int64_t{1} << 62; }), "32 below 2^31");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.planes = 2; }), "2 planes; allowed: 1");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.tiles = nullptr; }), "tiles is a null pointer");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.out_features = 0; }), "0 outputs");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.bits.scales_dtype = static_cast<lowbit_dtype>(3); }), "dtype 3");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.dtype = static_cast<lowbit_dtype>(3); }), "dtype 3");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.experts = -1; }), "-1 experts");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.router = nullptr; }), "router is a null pointer");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.in_scales = nullptr; }), "in_scales is a null pointer");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.out_scales = nullptr; }), "out_scales is a null pointer");
  EXPECT_FAILURE(signs([](S s, I, O, V) { s.out_scales_stride = 64; }), "out_scales_stride 64");
  EXPECT_FAILURE(signs([](S, I i, O, V) { i.cols = 99; }), "x has 99 columns; allowed: 100");
  EXPECT_FAILURE(signs([](S, I i, O, V) { i.rows = -1; }), "x has -1 rows");
  EXPECT_FAILURE(signs([](S, I i, O, V) { i.data = nullptr; }), "x.data is a null pointer");
  EXPECT_FAILURE(signs([](S, I i, O, V) { i.dtype = static_cast<lowbit_dtype>(3); }), "x has dtype 3");
  EXPECT_FAILURE(signs([](S, I, O o, V) { o.cols = 64; }), "y is [2, 64]; allowed: [2, 65]");
  EXPECT_FAILURE(signs([](S, I, O o, V) { o.rows = 3; }), "y is [3, 65]");
  EXPECT_FAILURE(signs([](S, I, O o, V) { o.row_stride = 64; }), "row_stride 64");
  EXPECT_FAILURE(signs([](S, I, O o, V) { o.data = nullptr; }), "y.data is a null pointer");
  EXPECT_FAILURE(signs([](S, I, O, V v) { v.size = 64; }), "bias has 64 values; allowed: 65");
  EXPECT_FAILURE(lowbit_signs_linear(nullptr, 1, &x, nullptr, LOWBIT_FAST, &y), "segments is a null pointer");
  EXPECT_FAILURE(lowbit_signs_linear(&good, 0, &x, nullptr, LOWBIT_FAST, &y), "num_segments is 0");
  EXPECT_FAILURE(lowbit_signs_linear(&good, 1, nullptr, nullptr, LOWBIT_FAST, &y), "x is a null pointer");
  EXPECT_FAILURE(lowbit_signs_linear(&good, 1, &x, nullptr, LOWBIT_FAST, nullptr), "y is a null pointer");
  EXPECT_FAILURE(lowbit_signs_linear(&good, 1, &x, nullptr, static_cast<lowbit_precision>(3), &y),
                 "precision is 3; allowed: 0 to 2");
  lowbit_signs pair[2] = {good, good};
  pair[1].bits.in_features = 101;
  EXPECT_FAILURE(lowbit_signs_linear(pair, 2, &x, nullptr, LOWBIT_FAST, &y), "segment 1 has 101 inputs");

  const auto planes = [&](int32_t active, int32_t activation_bits, int32_t count) {
    lowbit_bits weight = good_weight;
    weight.planes = count;
    return lowbit_planes_linear(&weight, active, &x, activation_bits, nullptr, LOWBIT_FAST, &y);
  };
  EXPECT(planes(4, 0, 4) == LOWBIT_OK, "%s", lowbit_last_error());
  EXPECT_FAILURE(planes(1, 0, 0), "weight has 0 planes; allowed: 1 to 8");
  EXPECT_FAILURE(planes(1, 0, 9), "weight has 9 planes");
  EXPECT_FAILURE(planes(0, 0, 4), "active_bits is 0; allowed: 1 to 4");
  EXPECT_FAILURE(planes(5, 0, 4), "active_bits is 5");
  EXPECT_FAILURE(planes(4, 9, 4), "activation_bits is 9; allowed: 0 to 8");
  EXPECT_FAILURE(lowbit_planes_linear(nullptr, 1, &x, 0, nullptr, LOWBIT_FAST, &y),
                 "weight is a null pointer");

  int32_t codes[200];
  float scales[2];
  EXPECT_FAILURE(lowbit_quantize_activations(&x, 0, LOWBIT_EXACT, codes, scales),
                 "precision is 2; allowed: 0 to 1");
  EXPECT_FAILURE(lowbit_quantize_activations(&x, 0, LOWBIT_FAST, nullptr, scales), "codes is a null pointer");
  EXPECT_FAILURE(lowbit_signs_prologue(&good, &x, nullptr, table.data()), "gates is a null pointer");

  // No tokens, no work: the pointers need not exist.
  const lowbit_input no_x{nullptr, LOWBIT_F32, 0, 100, 100};
  const lowbit_output no_y{nullptr, LOWBIT_F32, 0, 65, 65};
  EXPECT(lowbit_signs_linear(&good, 1, &no_x, nullptr, LOWBIT_FAST, &no_y) == LOWBIT_OK, "%s",
         lowbit_last_error());
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
  for (lowbit_isa isa : {LOWBIT_ISA_SCALAR, LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512,
                         LOWBIT_ISA_AMX, LOWBIT_ISA_NEON}) {
    if (!lowbit_isa_available(isa)) {
      std::printf("%s: not on this machine\n", lowbit_isa_name(isa));
      continue;
    }
    lowbit_set_isa(isa);
    const char* const name = lowbit_isa_name(isa);
    for (int i = 0; i < rounds; ++i) {
      random_call(true, name);
      random_call(false, name);
    }
    extreme_magnitudes(name);
    if (isa != LOWBIT_ISA_SCALAR) {
      long_inputs(name);
      for (const lowbit_parallel_for host :
           {static_cast<lowbit_parallel_for>(nullptr), last_chunk_first, all_chunks_together}) {
        lowbit_set_parallel_for(host);
        large_layers(name);
      }
      lowbit_set_parallel_for(nullptr);
    }
#if defined(__x86_64__)
    if (isa == LOWBIT_ISA_AMX) {
      constexpr int64_t kLeast[] = {5, 5, 6, 6, 6, 6, 6, 16};  // measured: csrc/cpu/bits/bits_amx.cpp
      for (int32_t planes = 1; planes <= 8; ++planes) {
        const int64_t least = kLeast[planes - 1];
        EXPECT(lowbit_tile_columns(planes) == least, "%d planes in tiles from %d columns", planes,
               static_cast<int>(lowbit_tile_columns(planes)));
        keeps_tiles(planes, least - 1, false);
        keeps_tiles(planes, least, true);
        keeps_tiles(planes, 40, true);
      }
    } else {
      EXPECT(lowbit_tile_columns(1) == 0, "tiles in %s", name);
    }
#endif
    std::printf("%s: %s\n", name, failures == 0 ? "ok" : "FAILED");
  }
  rejected_arguments();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
