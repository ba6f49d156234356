// The bit tile kernels of every instruction set this machine has, against plain integer arithmetic.
//
// Integer products must match bit for bit, including the order of the float additions; `exact` must match an
// fp64 sum closely, be the same on every instruction set, and give back the weights themselves for one-hot
// inputs. Exit status 0: everything matched.
#include "cpu/bits/bits.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/cpu_features.h"
#include "core/fp_control.h"
#include "core/half.h"

namespace lowbit {
namespace {

std::mt19937 rng(20240611);

int uniform(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(rng);
}
float normal() {
  return std::normal_distribution<float>()(rng);
}
template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[uniform(0, static_cast<int>(values.size()) - 1)];
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Values rounded to a dtype, with their bytes in an allocation of exactly that size, so that a sanitizer sees
// any read past the end.
struct Values {
  lowbit_dtype dtype = LOWBIT_F32;
  std::unique_ptr<uint8_t[]> bytes;

  Values() = default;
  Values(int64_t count, lowbit_dtype dtype) : dtype(dtype), bytes(new uint8_t[count * dtype_size(dtype)]()) {}
  void set(int64_t index, float value) { store_value(bytes.get(), dtype, index, value); }
  float at(int64_t index) const { return load_value(bytes.get(), dtype, index); }
  const void* data() const { return bytes.get(); }
};

struct Weight {
  int64_t n, k, group_size, groups, k_blocks;
  int planes;
  std::vector<uint8_t> bits;  // [planes][n][k]
  std::unique_ptr<uint8_t[]> tiles;
  Values scales;  // tiled
  std::unique_ptr<int16_t[]> offsets;

  int64_t group_index(int64_t row, int64_t group) const {
    return (row / 64 * groups + group) * 64 + row % 64;
  }

  lowbit_bits view() const {
    return {n, k, planes, tiles.get(), group_size, scales.data(), scales.dtype, offsets.get()};
  }
  int code(int64_t row, int64_t input, int active) const {
    int code = 0;
    for (int plane = 0; plane < active; ++plane) code = 2 * code + bits[(plane * n + row) * k + input];
    return code;
  }
};

Weight make_weight(int64_t n, int64_t k, int planes, int64_t group_size, bool scales, bool offsets,
                   bool extreme) {
  Weight w{n,  k,  group_size, group_size < 0 ? 1 : ceil_div(k, group_size), ceil_div(k, 32), planes, {},
           {}, {}, {}};
  const int64_t tiles = ceil_div(n, 64);
  const int64_t bytes = tiles * planes * w.k_blocks * 256;
  w.tiles.reset(new uint8_t[bytes]());
  w.bits.resize(planes * n * k);
  for (int plane = 0; plane < planes; ++plane) {
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t input = 0; input < k; ++input) {
        const int bit = extreme ? uniform(0, 15) > 0 : uniform(0, 1);
        w.bits[(plane * n + row) * k + input] = static_cast<uint8_t>(bit);
        const int64_t block = ((row / 64 * planes + plane) * w.k_blocks + input / 32) * 256;
        w.tiles[block + row % 64 * 4 + input % 32 / 8] |= static_cast<uint8_t>(bit << (input % 8));
      }
    }
  }
  if (scales) {
    w.scales = Values(tiles * w.groups * 64, pick({LOWBIT_F32, LOWBIT_F16, LOWBIT_BF16}));
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < w.groups; ++g) w.scales.set(w.group_index(row, g), 0.02f + std::fabs(normal()));
    }
  }
  if (offsets) {
    w.offsets.reset(new int16_t[tiles * w.groups * 64]());
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < w.groups; ++g) {
        const int range = extreme ? 32767 : (1 << planes) - 1;
        w.offsets[w.group_index(row, g)] = static_cast<int16_t>(uniform(-range, range));
      }
    }
  }
  return w;
}

// Output side, filled at random.
struct Ends {
  int experts;
  Values out_scales, bias, y;
  std::vector<float> gates;
  int64_t out_scales_stride, y_stride, tokens;
  bool gated;

  Ends(int64_t tokens, int64_t n) : tokens(tokens) {
    experts = pick({0, 0, 1, 4});
    gated = experts > 1;
    out_scales_stride = n + uniform(0, 3);
    y_stride = n + uniform(0, 5);
    if (experts > 0) {
      const int64_t count = (experts - 1) * out_scales_stride + n;
      out_scales = Values(count, pick({LOWBIT_F32, LOWBIT_F16, LOWBIT_BF16}));
      for (int64_t i = 0; i < count; ++i) out_scales.set(i, normal());
    }
    for (int64_t i = 0; i < tokens * experts; ++i) gates.push_back(std::fabs(normal()));
    if (uniform(0, 1) == 1) {
      bias = Values(n, pick({LOWBIT_F32, LOWBIT_F16, LOWBIT_BF16}));
      for (int64_t i = 0; i < n; ++i) bias.set(i, normal());
    }
    y = Values((tokens - 1) * y_stride + n, pick({LOWBIT_F32, LOWBIT_F16, LOWBIT_BF16}));
  }

  Epilogue view() const {
    return {gated ? gates.data() : nullptr,
            experts > 1 ? experts : 1,
            out_scales.data(),
            out_scales.dtype,
            out_scales_stride,
            bias.data(),
            bias.dtype,
            y.bytes.get(),
            y.dtype,
            y_stride};
  }
  int64_t y_bytes(int64_t n) const { return ((tokens - 1) * y_stride + n) * dtype_size(y.dtype); }

  float finish(float sum, int64_t token, int64_t row) const {
    if (out_scales.data() != nullptr) {
      float mixed = out_scales.at(row);
      if (gated) mixed *= gates[token * experts];
      for (int e = 1; e < experts; ++e) {
        mixed = std::fma(gates[token * experts + e], out_scales.at(e * out_scales_stride + row), mixed);
      }
      sum *= mixed;
    }
    return bias.data() != nullptr ? sum + bias.at(row) : sum;
  }
};

struct Activations {
  int64_t tokens, k, k_blocks, x_group_blocks, x_groups;
  int per_token, radix_shift, max_code;
  std::vector<int> values;  // [tokens][k] integer values
  std::vector<int8_t> codes;
  std::vector<int32_t> sums;
  std::vector<float> scales;

  Columns view() const {
    return {tokens,         per_token,    radix_shift, max_code,      k_blocks,
            x_group_blocks, codes.data(), sums.data(), scales.data(), nullptr};
  }
};

enum class Mode { kFast, kHigh, kBipolar };

Activations make_activations(int64_t tokens, int64_t k, Mode mode, bool extreme) {
  Activations x{};
  x.tokens = tokens;
  x.k = k;
  x.k_blocks = ceil_div(k, 32);
  x.x_group_blocks = mode == Mode::kFast ? 4 : x.k_blocks;
  x.x_groups = ceil_div(x.k_blocks, x.x_group_blocks);
  const int width = mode == Mode::kBipolar ? uniform(1, 8) : 0;
  x.per_token = mode == Mode::kHigh || width == 8 ? 2 : 1;
  x.radix_shift = mode == Mode::kHigh ? 8 : width == 8 ? 4 : 0;
  x.max_code = mode == Mode::kFast ? 127 : mode == Mode::kHigh ? 32639 : (1 << width) - 1;
  x.values.resize(tokens * k);
  x.codes.assign(tokens * x.per_token * x.k_blocks * 32, 0);
  x.sums.assign(tokens * x.per_token * x.k_blocks, 0);
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t g = 0; g < x.x_groups; ++g) x.scales.push_back(std::fabs(normal()) / x.max_code);
    for (int64_t i = 0; i < k; ++i) {
      int value = uniform(-x.max_code, x.max_code);
      if (extreme) value = uniform(0, 31) > 0 ? x.max_code : -x.max_code;
      if (extreme && mode == Mode::kHigh && token % 2 == 1) value = 256 * uniform(-126, 127) - 128;
      if (mode == Mode::kBipolar) value |= 1;  // odd
      x.values[token * k + i] = value;
      const int v0 = x.per_token == 1      ? value
                     : mode == Mode::kHigh ? static_cast<int>(std::floor((value + 128) / 256.0))
                                           : value >> 4;
      const int digits[2] = {v0, value - (v0 << x.radix_shift)};
      for (int p = 0; p < x.per_token; ++p) {
        const int64_t column = token * x.per_token + p;
        x.codes[(column * x.k_blocks + i / 32) * 32 + i % 8 * 4 + i % 32 / 8] =
            static_cast<int8_t>(digits[p]);
        x.sums[column * x.k_blocks + i / 32] += digits[p];
      }
    }
  }
  return x;
}

// The contract, spelled out one input at a time.
float reference(const Weight& w, int active, const Activations& x, const Ends& ends, int64_t token,
                int64_t row) {
  const int64_t limit = INT32_MAX / (static_cast<int64_t>(x.max_code) * ((1 << w.planes) - 1));
  const int64_t max_run = std::min<int64_t>(limit / 128 * 128, 32768);
  const int64_t w_group = w.group_size < 0 ? w.k_blocks * 32 : w.group_size;
  const int64_t x_group = x.x_group_blocks * 32;
  const bool grouped = w.scales.data() != nullptr && w.groups > 1;
  float acc = 0;
  for (int64_t begin = 0; begin < w.k;) {
    int64_t end = begin;
    int64_t total = 0, x_sum = 0;
    while (end < w.k && end / w_group == begin / w_group && end / x_group == begin / x_group &&
           end - begin < max_run) {
      const int64_t value = x.values[token * w.k + end];
      total += (2 * w.code(row, end, active) - ((1 << active) - 1)) * value;
      x_sum += value;
      ++end;
    }
    const int64_t group = w.group_index(row, begin / w_group);
    float value = static_cast<float>(static_cast<int32_t>(total << (w.planes - active)));
    if (w.offsets != nullptr)
      value = std::fma(static_cast<float>(w.offsets[group]), static_cast<float>(x_sum), value);
    const float x_scale = x.scales[token * x.x_groups + begin / x_group];
    acc = grouped ? std::fma(value * x_scale, w.scales.at(group), acc) : std::fma(value, x_scale, acc);
    begin = end;
  }
  if (w.scales.data() != nullptr && !grouped) acc *= w.scales.at(w.group_index(row, 0));
  return ends.finish(acc, token, row);
}

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  if (failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

// Tiles in one range, or one by one from the last to the first.
template <class Run>
void run_tiles(int64_t tiles, bool reversed, Run run) {
  if (!reversed) return run(0, tiles);
  for (int64_t tile = tiles - 1; tile >= 0; --tile) run(tile, tile + 1);
}

// y against `expected` [tokens][n], bit for bit after rounding to y's dtype; the gaps between rows untouched.
void check_y(const Ends& ends, int64_t n, const std::vector<float>& expected, const std::string& what) {
  const int64_t size = dtype_size(ends.y.dtype);
  std::vector<uint8_t> wanted(ends.y_bytes(n), 0xa5);
  for (int64_t token = 0; token < ends.tokens; ++token) {
    for (int64_t row = 0; row < n; ++row) {
      store_value(wanted.data(), ends.y.dtype, token * ends.y_stride + row, expected[token * n + row]);
    }
  }
  for (int64_t i = 0; i < static_cast<int64_t>(wanted.size()); ++i) {
    if (wanted[i] == ends.y.bytes[i]) continue;
    const int64_t index = i / size;
    check(false, what + " token " + std::to_string(index / ends.y_stride) + " row " +
                     std::to_string(index % ends.y_stride) + " got " + std::to_string(ends.y.at(index)) +
                     " wanted " + std::to_string(load_value(wanted.data(), ends.y.dtype, index)));
    return;
  }
}

std::string describe(const Weight& w, int active, int64_t tokens) {
  return "N " + std::to_string(w.n) + " K " + std::to_string(w.k) + " planes " + std::to_string(w.planes) +
         " active " + std::to_string(active) + " group " + std::to_string(w.group_size) +
         (w.offsets ? " offsets" : "") + (w.scales.data() ? " scales" : "") + " tokens " +
         std::to_string(tokens);
}

// Look-up tables of a single column, as aligned as the library has them, or none.
class Tables {
 public:
  Tables(const BitsKernels& kernels, const Weight& w, int active, const Columns& x)
      : bytes_(kernels.table_bytes(active, x.tokens * x.per_token, x.k_blocks, kManyTiles)) {
    if (bytes_ == 0) return;
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, bytes_ + kAlignment)));
    std::memset(data_.get(), kUntouched, bytes_ + kAlignment);
    const int64_t last = ceil_div(w.n, 64) - 1;
    kernels.build_tables(w.view(), last, x, data_.get());
    for (int64_t i = bytes_; i < bytes_ + kAlignment; ++i) check(data_[i] == kUntouched, "behind the tables");
  }

  const uint8_t* data() const { return data_.get(); }

 private:
  static constexpr int64_t kManyTiles = 1000, kAlignment = 64;
  static constexpr uint8_t kUntouched = 0xa5;
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  int64_t bytes_;
  std::unique_ptr<uint8_t[], Free> data_;
};

// Memory for a call, and a margin that it must leave alone.
class Work {
 public:
  Work(const BitsKernels& kernels, int active, const Columns& x)
      : bytes_(ceil_div(kernels.work_bytes(active, x.tokens * x.per_token), kMargin) * kMargin),
        data_(static_cast<std::byte*>(std::aligned_alloc(kMargin, bytes_ + kMargin))) {
    std::memset(data_, kUntouched, bytes_ + kMargin);
  }
  ~Work() {
    for (int64_t i = bytes_; i < bytes_ + kMargin; ++i) {
      check(data_[i] == std::byte{kUntouched}, "behind the memory of a call");
    }
    std::free(data_);
  }

  std::byte* data() const { return data_; }

 private:
  static constexpr int64_t kMargin = 64;
  static constexpr uint8_t kUntouched = 0xa5;
  int64_t bytes_;
  std::byte* data_;
};

void test_product(const std::vector<Isa>& isas, const Weight& w, int active, const Activations& x,
                  const std::string& name) {
  Ends ends(x.tokens, w.n);
  std::vector<float> expected;
  for (int64_t token = 0; token < x.tokens; ++token) {
    for (int64_t row = 0; row < w.n; ++row) expected.push_back(reference(w, active, x, ends, token, row));
  }
  for (const Isa isa : isas) {
    const BitsKernels& kernels = bits_kernels(isa);
    const Tables tables(kernels, w, active, x.view());
    const Work work(kernels, active, x.view());
    for (const bool reversed : {false, true}) {
      for (const bool with_tables : {false, true}) {
        if (with_tables && tables.data() == nullptr) continue;
        Columns columns = x.view();
        if (with_tables) columns.tables = tables.data();
        std::memset(ends.y.bytes.get(), 0xa5, ends.y_bytes(w.n));
        run_tiles(ceil_div(w.n, 64), reversed, [&](int64_t begin, int64_t end) {
          kernels.product(w.view(), active, columns, ends.view(), begin, end, work.data());
        });
        check_y(ends, w.n, expected,
                std::string(isa_name(isa)) + " " + name + " " + describe(w, active, x.tokens) +
                    " columns per token " + std::to_string(x.per_token) + (with_tables ? " tables" : ""));
      }
    }
  }
}

void test_exact(const std::vector<Isa>& isas, const Weight& w, int active, int64_t tokens) {
  Ends ends(tokens, w.n);
  std::vector<float> values(tokens * w.k_blocks * 32, 0.0f);
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t i = 0; i < w.k; ++i) values[token * w.k_blocks * 32 + i] = normal();
  }
  const FloatColumns x{tokens, w.k_blocks, values.data()};
  std::vector<uint8_t> first;
  for (const Isa isa : isas) {
    const std::string what = std::string(isa_name(isa)) + " exact " + describe(w, active, tokens);
    for (const bool reversed : {false, true}) {
      std::memset(ends.y.bytes.get(), 0xa5, ends.y_bytes(w.n));
      run_tiles(ceil_div(w.n, 64), reversed, [&](int64_t begin, int64_t end) {
        bits_kernels(isa).product_exact(w.view(), active, x, ends.view(), begin, end);
      });
      if (first.empty()) first.assign(ends.y.bytes.get(), ends.y.bytes.get() + ends.y_bytes(w.n));
      check(std::memcmp(first.data(), ends.y.bytes.get(), first.size()) == 0, what + " differs between runs");
    }
  }
  const double ulp = ends.y.dtype == LOWBIT_F32 ? 1e-7 : ends.y.dtype == LOWBIT_F16 ? 5e-4 : 4e-3;
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t row = 0; row < w.n; ++row) {
      double sum = 0, norm_x = 0, norm_w = 0;
      for (int64_t i = 0; i < w.k; ++i) {
        const int64_t group = w.group_index(row, w.group_size < 0 ? 0 : i / w.group_size);
        double weight = std::ldexp(2 * w.code(row, i, active) - ((1 << active) - 1), w.planes - active);
        if (w.offsets != nullptr) weight += w.offsets[group];
        if (w.scales.data() != nullptr) weight *= w.scales.at(group);
        const double value = values[token * w.k_blocks * 32 + i];
        sum += weight * value;
        norm_x += value * value;
        norm_w += weight * weight;
      }
      const double plain = ends.finish(0.0f, token, row);  // the bias
      const double scale = static_cast<double>(ends.finish(1.0f, token, row)) - plain;
      const double wanted = sum * scale + plain;
      const double error = std::fabs(ends.y.at(token * ends.y_stride + row) - wanted);
      const double bound =
          1e-5 * std::sqrt(norm_x * norm_w) * (std::fabs(scale) + 1e-6) + 1e-6 + ulp * std::fabs(wanted);
      check(error <= bound, "exact, error " + std::to_string(error) + " above " + std::to_string(bound) +
                                ", " + describe(w, active, tokens));
    }
  }
}

// One-hot inputs of 1.0 must return the dequantised weights themselves.
void test_one_hot(const std::vector<Isa>& isas, const Weight& w, int active) {
  std::vector<float> values(w.k * w.k_blocks * 32, 0.0f);
  for (int64_t i = 0; i < w.k; ++i) values[i * w.k_blocks * 32 + i] = 1.0f;
  const FloatColumns x{w.k, w.k_blocks, values.data()};
  std::vector<float> y(w.k * w.n);
  const Epilogue epilogue{nullptr, 1, nullptr, LOWBIT_F32, 0, nullptr, LOWBIT_F32, y.data(), LOWBIT_F32, w.n};
  for (const Isa isa : isas) {
    bits_kernels(isa).product_exact(w.view(), active, x, epilogue, 0, ceil_div(w.n, 64));
    for (int64_t i = 0; i < w.k; ++i) {
      for (int64_t row = 0; row < w.n; ++row) {
        const int64_t group = w.group_index(row, w.group_size < 0 ? 0 : i / w.group_size);
        float weight = std::ldexp(2.0f * w.code(row, i, active) - ((1 << active) - 1), w.planes - active);
        if (w.offsets != nullptr) weight += w.offsets[group];
        if (w.scales.data() != nullptr) weight *= w.scales.at(group);
        if (y[i * w.n + row] == weight) continue;
        check(false, std::string(isa_name(isa)) + " one-hot " + describe(w, active, w.k));
        return;
      }
    }
  }
}

// A token without finite scales or values is NaN everywhere and leaves its neighbours alone.
void test_not_a_number(const std::vector<Isa>& isas) {
  const Weight w = make_weight(70, 200, 3, 64, true, true, false);
  Activations x = make_activations(3, 200, Mode::kFast, false);
  std::fill_n(x.codes.begin() + x.k_blocks * 32, x.k_blocks * 32, 0);
  std::fill_n(x.sums.begin() + x.k_blocks, x.k_blocks, 0);
  std::fill_n(x.scales.begin() + x.x_groups, x.x_groups, NAN);
  std::vector<float> values(3 * w.k_blocks * 32, 0.5f);
  values[w.k_blocks * 32] = NAN;
  std::vector<float> y(3 * w.n);
  const Epilogue epilogue{nullptr, 1, nullptr, LOWBIT_F32, 0, nullptr, LOWBIT_F32, y.data(), LOWBIT_F32, w.n};
  for (const Isa isa : isas) {
    for (const bool exact : {false, true}) {
      if (exact) {
        bits_kernels(isa).product_exact(w.view(), 3, {3, w.k_blocks, values.data()}, epilogue, 0, 2);
      } else {
        const Work work(bits_kernels(isa), 3, x.view());
        bits_kernels(isa).product(w.view(), 3, x.view(), epilogue, 0, 2, work.data());
      }
      for (int64_t i = 0; i < 3 * w.n; ++i) {
        check(std::isnan(y[i]) == (i / w.n == 1), std::string(isa_name(isa)) + " NaN token");
      }
    }
  }
}

// Every fp16 value survives the round trip, and midpoints go to the even neighbour.
void test_half() {
  for (uint32_t bits = 0; bits < 0x7c00u; ++bits) {
    const float value = fp16_to_float(static_cast<uint16_t>(bits));
    const float next = bits == 0x7bffu ? 65536.0f : fp16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = 0.5f * (value + next);
    check(float_to_fp16(value) == bits && float_to_fp16(-value) == (bits | 0x8000u), "fp16 round trip");
    check(float_to_fp16(middle) == bits + (bits & 1u), "fp16 midpoint");
    check(float_to_fp16(std::nextafter(middle, 0.0f)) == bits, "fp16 below midpoint");
    check(float_to_fp16(std::nextafter(middle, 1e9f)) == bits + 1, "fp16 above midpoint");
  }
  check(float_to_fp16(1e9f) == 0x7c00u && std::isnan(fp16_to_float(float_to_fp16(NAN))),
        "fp16 infinity and NaN");
  check(float_to_bf16(1.00390625f) == 0x3f80u && float_to_bf16(1.01171875f) == 0x3f82u, "bf16 midpoints");
  check(std::isnan(bf16_to_float(float_to_bf16(NAN))), "bf16 NaN");
}

int run(int cases) {
  std::vector<Isa> isas;
  for (const Isa isa : {LOWBIT_ISA_SCALAR, LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512,
                        LOWBIT_ISA_AMX, LOWBIT_ISA_NEON}) {
    // The kernels are called without the library's choice among them; tiles need it made once.
    if (isa_available(isa) && set_active_isa(isa) == LOWBIT_OK) isas.push_back(isa);
  }
  test_half();
#if defined(__x86_64__)
  const uint64_t control = fp_control();
  set_fp_control(control | 0x8040);  // fp32 subnormals are read and written as zero
  test_half();
  set_fp_control(control);
#endif
  test_not_a_number(isas);
  for (int i = 0; i < cases; ++i) {
    const int planes = i % 8 + 1;
    const bool extreme = uniform(0, 3) == 0;
    const int64_t n = pick<int64_t>({1, 3, 63, 64, 65, 100, 150});
    const int64_t k = pick<int64_t>({1, 5, 31, 32, 33, 100, 127, 128, 160, 257, 389, 640, 1031});
    const int64_t group_size = pick<int64_t>({-1, -1, 32, 64, 96, 128, 160});
    const Weight w = make_weight(n, k, planes, group_size, uniform(0, 5) > 0, uniform(0, 1) == 1, extreme);
    const int active = uniform(0, 1) == 0 ? planes : uniform(1, planes);
    const int64_t tokens = pick<int64_t>({1, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 24, 25, 33});
    const Mode mode = pick({Mode::kFast, Mode::kHigh, Mode::kBipolar});
    test_product(isas, w, active, make_activations(tokens, k, mode, extreme), "product");
    if (!extreme) test_exact(isas, w, active, pick<int64_t>({1, 2, 5}));
    if (k <= 160) test_one_hot(isas, w, active);
  }
  // Rows longer than the longest run.
  for (const int planes : {1, 8}) {
    const Weight w = make_weight(2, 33000, planes, -1, true, false, true);
    test_product(isas, w, planes, make_activations(2, 33000, Mode::kHigh, true), "long rows");
    test_product(isas, w, planes, make_activations(7, 33000, Mode::kBipolar, true), "long rows");
    test_product(isas, w, planes, make_activations(9, 33000, Mode::kHigh, true), "long rows of many columns");
  }
  // Look-up tables: rows of several stretches, runs cut by them, more tiles than share the tables.
  for (const Mode mode : {Mode::kFast, Mode::kHigh, Mode::kBipolar}) {
    for (const int64_t group_size : {-1, 96}) {
      const Weight w = make_weight(130, 9000, 1, group_size, true, true, true);
      test_product(isas, w, 1, make_activations(9, 9000, mode, true), "stretches");
      test_product(isas, w, 1, make_activations(1, 9000, mode, true), "one token");
    }
  }
  test_product(isas, make_weight(64 * 33 + 1, 100, 1, 32, true, false, true), 1,
               make_activations(9, 100, Mode::kFast, true), "many tiles");
  // More columns than share expanded weights, with groups of columns that are cut off; runs of one block and
  // of an odd number of them.
  for (const Mode mode : {Mode::kFast, Mode::kHigh, Mode::kBipolar}) {
    for (const int planes : {1, 3, 7, 8}) {
      for (const int64_t group_size : {-1, 32, 96}) {
        const Weight w = make_weight(70, 353, planes, group_size, true, planes == 3, true);
        test_product(isas, w, planes, make_activations(mode == Mode::kHigh ? 69 : 133, 353, mode, true),
                     "many columns");
      }
    }
  }
  // More tiles than `exact` computes together.
  test_exact(isas, make_weight(64 * 9 + 1, 100, 2, 32, true, false, false), 2, 2);

  std::string names;
  for (const Isa isa : isas) names += std::string(" ") + isa_name(isa);
  std::printf("bits: %d cases on%s: %d failures\n", cases, names.c_str(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lowbit

// bits_test [cases]
int main(int argc, char** argv) {
  return lowbit::run(argc > 1 ? std::atoi(argv[1]) : 160);
}
