// Kernels of the codebook family against weights expanded in double precision, for every instruction set that
// this machine has: the error bound element by element, the same bits for every number of tokens and threads,
// NaN tokens, one-hot tokens, and refusals.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/cpu_features.h"
#include "core/half.h"
#include "lowbit.h"

namespace {

using namespace lowbit;

int failures = 0;

void report(bool ok, const std::string& what) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAILED %s\n", what.c_str());
}

std::mt19937 generator(20261121);

float normal() {
  return std::normal_distribution<float>()(generator);
}
uint32_t below(uint32_t n) {
  return std::uniform_int_distribution<uint32_t>(0, n - 1)(generator);
}

constexpr lowbit_dtype kDtypes[] = {LOWBIT_F32, LOWBIT_F16, LOWBIT_BF16};

// An array in any dtype of the interface, exactly as large as its content (so that address checkers see
// every byte read beyond it).
struct Array {
  lowbit_dtype dtype;
  std::vector<char> bytes;

  Array(lowbit_dtype type, int64_t size) : dtype(type), bytes(static_cast<size_t>(size * dtype_size(type))) {}
  static Array random(lowbit_dtype type, int64_t size, float scale = 1.0f) {
    Array result(type, size);
    for (int64_t i = 0; i < size; ++i) result.set(i, scale * normal());
    return result;
  }
  float operator[](int64_t i) const { return load_value(bytes.data(), dtype, i); }
  void set(int64_t i, float value) { store_value(bytes.data(), dtype, i, value); }
};

// A layer as the tests see it: its expanded weight and how to run it.
struct Layer {
  std::string name;
  int64_t n, k;
  std::vector<double> weight;  // [n][k]
  bool quantizes = false;      // `fast` rounds activations
  std::vector<double> rounds;  // [n] by so much an entry may be off: tables that `fast` rounds, fp32 parts
  virtual lowbit_status run(const lowbit_input& x, const lowbit_vector* bias, lowbit_precision precision,
                            const lowbit_output& y) const = 0;
  virtual ~Layer() = default;
  Layer(std::string label, int64_t outputs, int64_t inputs)
      : name(std::move(label)),
        n(outputs),
        k(inputs),
        weight(static_cast<size_t>(n * k), 0.0),
        rounds(static_cast<size_t>(n), 0.0) {
    name += " N=" + std::to_string(n) + " K=" + std::to_string(k);
  }
  double& at(int64_t row, int64_t col) { return weight[static_cast<size_t>(row * k + col)]; }
  double at(int64_t row, int64_t col) const { return weight[static_cast<size_t>(row * k + col)]; }
};

struct Channel : Layer {
  Array centroids, out, in;
  std::vector<char> labels;
  lowbit_codebook_channel c{};

  Channel(int64_t outputs, int64_t inputs, int axis, int64_t clusters, int label_bytes, int64_t rank,
          lowbit_dtype dtype)
      : Layer("channel axis=" + std::to_string(axis) + " C=" + std::to_string(clusters) +
                  " rank=" + std::to_string(rank) + " dtype=" + std::to_string(dtype),
              outputs, inputs),
        centroids(Array::random(dtype, axis == 0 ? clusters * inputs : outputs * clusters)),
        out(Array::random(dtype, outputs * rank)),
        in(Array::random(dtype, rank * inputs)) {
    const int64_t count = axis == 0 ? n : k;
    labels.resize(static_cast<size_t>(count * label_bytes));
    std::vector<uint32_t> label(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      label[i] = below(static_cast<uint32_t>(clusters));
      std::memcpy(&labels[static_cast<size_t>(i * label_bytes)], &label[i], static_cast<size_t>(label_bytes));
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        at(i, j) = axis == 0 ? centroids[label[i] * k + j] : centroids[i * clusters + label[j]];
        double parts = std::fabs(at(i, j));
        for (int64_t r = 0; r < rank; ++r) {
          const double part = static_cast<double>(out[i * rank + r]) * in[r * k + j];
          at(i, j) += part;
          parts += std::fabs(part);
        }
        // Their products are summed in fp32, and parts may cancel.
        rounds[i] = std::max(rounds[i], rank > 0 ? 0x1p-22 * parts : 0.0);
      }
    }
    c = {n,
         k,
         axis,
         clusters,
         centroids.bytes.data(),
         labels.data(),
         label_bytes,
         rank,
         out.bytes.data(),
         in.bytes.data(),
         dtype};
  }
  lowbit_status run(const lowbit_input& x, const lowbit_vector* bias, lowbit_precision precision,
                    const lowbit_output& y) const override {
    return lowbit_codebook_channel_linear(&c, &x, bias, precision, &y);
  }
};

struct Scalar : Layer {
  Array tables, values;
  std::vector<uint8_t> planes;
  std::vector<int32_t> offsets, columns;
  lowbit_codebook_scalar c{};

  Scalar(int64_t outputs, int64_t inputs, int bits, lowbit_dtype dtype, bool outliers)
      : Layer("scalar bits=" + std::to_string(bits) + " dtype=" + std::to_string(dtype) +
                  (outliers ? " outliers" : ""),
              outputs, inputs),
        tables(Array::random(dtype, outputs << bits)),
        values(dtype, 0) {
    quantizes = true;
    for (int64_t i = 0; i < n << bits; ++i) {
      double& most = rounds[static_cast<size_t>(i >> bits)];
      most = std::max(most, 0x1p-20 * std::fabs(tables[i]));
    }
    const int64_t bytes = (k + 7) / 8;
    planes.resize(static_cast<size_t>(bits * n * bytes));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const uint32_t code = below(1u << bits);
        for (int p = 0; p < bits; ++p) {
          const uint32_t bit = code >> (bits - 1 - p) & 1;
          planes[static_cast<size_t>((p * n + i) * bytes + j / 8)] |= static_cast<uint8_t>(bit << (j % 8));
        }
        at(i, j) = tables[(i << bits) + code];
      }
    }
    c = {n, k, bits, planes.data(), tables.bytes.data(), dtype, nullptr, nullptr, nullptr, dtype};
    if (!outliers) return;
    offsets.push_back(0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        if (below(10) == 0) columns.push_back(static_cast<int32_t>(j));
      }
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    values = Array::random(dtype, static_cast<int64_t>(columns.size()), 10.0f);
    for (int64_t i = 0; i < n; ++i) {
      for (int32_t o = offsets[i]; o < offsets[i + 1]; ++o) at(i, columns[o]) += values[o];
    }
    c.outlier_offsets = offsets.data();
    c.outlier_columns = columns.data();
    c.outlier_values = values.bytes.data();
  }
  lowbit_status run(const lowbit_input& x, const lowbit_vector* bias, lowbit_precision precision,
                    const lowbit_output& y) const override {
    return lowbit_codebook_scalar_linear(&c, &x, bias, precision, &y);
  }
};

struct Vector : Layer {
  Array books, scales;
  std::vector<uint8_t> codes;
  lowbit_codebook_vector c{};

  Vector(int64_t outputs, int64_t inputs, int codebooks, int size, lowbit_dtype dtype)
      : Layer("vector codebooks=" + std::to_string(codebooks) + " v=" + std::to_string(size) +
                  " dtype=" + std::to_string(dtype),
              outputs, inputs),
        books(Array::random(dtype, static_cast<int64_t>(codebooks) * 256 * size)),
        scales(Array::random(dtype, outputs)) {
    const int64_t positions = (k + size - 1) / size;
    codes.resize(static_cast<size_t>(codebooks * n * positions));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(below(256));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        double parts = 0.0;
        for (int b = 0; b < codebooks; ++b) {
          const int64_t code = codes[static_cast<size_t>((b * n + i) * positions + j / size)];
          const double part = books[(b * 256 + code) * size + j % size];
          at(i, j) += part;
          parts += std::fabs(part);
        }
        at(i, j) *= scales[i];
        // Summed in fp32, as in Channel.
        rounds[i] = std::max(rounds[i], codebooks > 1 ? 0x1p-22 * parts * std::fabs(scales[i]) : 0.0);
      }
    }
    c = {n, k, codebooks, size, codes.data(), books.bytes.data(), scales.bytes.data(), dtype};
  }
  lowbit_status run(const lowbit_input& x, const lowbit_vector* bias, lowbit_precision precision,
                    const lowbit_output& y) const override {
    return lowbit_codebook_vector_linear(&c, &x, bias, precision, &y);
  }
};

// The `fast` quantiser, written again from its definition.
void round_activations(std::vector<float>& x) {
  for (size_t begin = 0; begin < x.size(); begin += 128) {
    const size_t end = std::min(begin + 128, x.size());
    float amax = 0.0f;
    for (size_t i = begin; i < end; ++i) amax = std::max(amax, std::fabs(x[i]));
    for (size_t i = begin; i < end && amax > 0.0f; ++i) {
      x[i] = std::nearbyint(x[i] * (127.0f / amax)) * (amax / 127.0f);
    }
  }
}

double half_ulp(lowbit_dtype dtype, double value) {
  const int digits = dtype == LOWBIT_F32 ? 24 : dtype == LOWBIT_F16 ? 11 : 8;
  const int smallest = dtype == LOWBIT_F16 ? -24 : -149;
  return std::ldexp(0.5, std::max(std::ilogb(std::max(std::fabs(value), 1e-45)) - digits + 1, smallest));
}

struct Batch {
  int64_t m, x_stride, y_stride;
  Array x, y;

  Batch(const Layer& layer, int64_t tokens, lowbit_dtype dtype, lowbit_dtype y_dtype)
      : m(tokens),
        x_stride(layer.k + 3),
        y_stride(layer.n + 5),
        x(Array::random(dtype, m * x_stride)),
        y(y_dtype, m * y_stride) {}
  Batch(const Layer& layer, int64_t tokens, lowbit_dtype dtype) : Batch(layer, tokens, dtype, dtype) {}

  lowbit_status run(const Layer& layer, const lowbit_vector* bias, lowbit_precision precision) {
    return run_rows(layer, bias, precision, 0, m);
  }
  lowbit_status run_rows(const Layer& layer, const lowbit_vector* bias, lowbit_precision precision,
                         int64_t first, int64_t rows) {
    const lowbit_input in{x.bytes.data() + first * x_stride * dtype_size(x.dtype), x.dtype, rows, layer.k,
                          x_stride};
    const lowbit_output out{y.bytes.data() + first * y_stride * dtype_size(y.dtype), y.dtype, rows, layer.n,
                            y_stride};
    return layer.run(in, bias, precision, out);
  }
};

std::string label(const Layer& layer, lowbit_precision precision, const Batch& batch) {
  lowbit_isa isa;
  lowbit_get_isa(&isa);
  return std::string(lowbit_isa_name(isa)) + " " + layer.name + " M=" + std::to_string(batch.m) +
         " x dtype=" + std::to_string(batch.x.dtype) + " precision=" + std::to_string(precision);
}

void check_values(const Layer& layer, Batch batch, lowbit_precision precision, bool with_bias) {
  const int64_t tokens = batch.m;
  const lowbit_dtype dtype = batch.y.dtype;
  Array bias_values = Array::random(dtype, layer.n);
  const lowbit_vector bias{bias_values.bytes.data(), dtype, layer.n};
  const std::string what = label(layer, precision, batch);
  report(batch.run(layer, with_bias ? &bias : nullptr, precision) == LOWBIT_OK,
         what + ": " + lowbit_last_error());
  for (int64_t m = 0; m < tokens; ++m) {
    std::vector<float> x(static_cast<size_t>(layer.k));
    for (int64_t k = 0; k < layer.k; ++k) x[k] = batch.x[m * batch.x_stride + k];
    if (layer.quantizes && precision == LOWBIT_FAST) round_activations(x);
    double x_norm = 0.0, x_sum = 0.0;
    for (float value : x) {
      x_norm += static_cast<double>(value) * value;
      x_sum += std::fabs(value);
    }
    for (int64_t n = 0; n < layer.n; ++n) {
      double expected = 0.0, w_norm = 0.0;
      for (int64_t k = 0; k < layer.k; ++k) {
        expected += layer.at(n, k) * x[k];
        w_norm += layer.at(n, k) * layer.at(n, k);
      }
      double bound = 1e-5 * std::sqrt(x_norm) * std::sqrt(w_norm);
      if (precision == LOWBIT_FAST || !layer.quantizes) bound += layer.rounds[static_cast<size_t>(n)] * x_sum;
      if (with_bias) {
        expected += bias_values[n];
        bound += half_ulp(LOWBIT_F32, expected);  // of the addition
      }
      const double found = batch.y[m * batch.y_stride + n];
      bound += half_ulp(dtype, std::max(std::fabs(expected), std::fabs(found)));
      report(std::fabs(found - expected) <= bound,
             what + " m=" + std::to_string(m) + " n=" + std::to_string(n) + ": " + std::to_string(found) +
                 ", expected " + std::to_string(expected) + " within " + std::to_string(bound));
    }
  }
}

void check_values(const Layer& layer, int64_t tokens, lowbit_dtype dtype, lowbit_precision precision,
                  bool with_bias) {
  check_values(layer, Batch(layer, tokens, dtype), precision, with_bias);
}

// The same bits for a token alone and in a batch, and for every number of threads.
void check_invariance(const Layer& layer, int64_t tokens, lowbit_precision precision,
                      std::initializer_list<int64_t> batches = {1, 2, 5}, lowbit_dtype dtype = LOWBIT_F32) {
  Batch batch(layer, tokens, dtype, LOWBIT_F32);
  const std::string what = label(layer, precision, batch);
  lowbit_set_num_threads(1);
  batch.run(layer, nullptr, precision);
  const std::vector<char> expected = batch.y.bytes;
  for (const int threads : {2, 3}) {
    lowbit_set_num_threads(threads);
    std::fill(batch.y.bytes.begin(), batch.y.bytes.end(), char{0});
    batch.run(layer, nullptr, precision);
    report(batch.y.bytes == expected, what + ": other bits with " + std::to_string(threads) + " threads");
  }
  for (const int64_t rows : batches) {
    std::fill(batch.y.bytes.begin(), batch.y.bytes.end(), char{0});
    for (int64_t m = 0; m < tokens; m += rows) {
      batch.run_rows(layer, nullptr, precision, m, std::min(rows, tokens - m));
    }
    report(batch.y.bytes == expected, what + ": other bits in batches of " + std::to_string(rows));
  }
  lowbit_set_num_threads(0);
}

void check_non_finite(const Layer& layer, lowbit_precision precision, int64_t tokens = 6,
                      lowbit_dtype dtype = LOWBIT_F32) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Batch batch(layer, tokens, dtype);
    const std::string what = label(layer, precision, batch);
    batch.run(layer, nullptr, precision);
    const Array before = batch.y;
    const int64_t m = below(static_cast<uint32_t>(tokens));
    batch.x.set(m * batch.x_stride + below(static_cast<uint32_t>(layer.k)), bad);
    batch.run(layer, nullptr, precision);
    for (int64_t i = 0; i < tokens; ++i) {
      for (int64_t n = 0; n < layer.n; ++n) {
        const float found = batch.y[i * batch.y_stride + n];
        const float old = before[i * batch.y_stride + n];
        report(i == m ? std::isnan(found) : found == old,
               what + ": a non-finite token, row " + std::to_string(i));
      }
    }
  }
}

// With fp32 activations a one-hot token reads the weight back, to the bit where it is one entry of a table.
void check_one_hot(const Layer& layer) {
  Batch batch(layer, 1, LOWBIT_F32);
  for (int64_t hot = 0; hot < layer.k; ++hot) {
    for (int64_t k = 0; k < layer.k; ++k) batch.x.set(k, k == hot ? 1.0f : 0.0f);
    batch.run(layer, nullptr, LOWBIT_EXACT);
    for (int64_t n = 0; n < layer.n; ++n) {
      report(batch.y[n] == static_cast<float>(layer.at(n, hot)),
             label(layer, LOWBIT_EXACT, batch) + ": one-hot input " + std::to_string(hot));
    }
  }
}

// Vectors and tokens of ones: each product is as large as a product can be. No sum of 21-bit integers in 32
// bits holds them, and rounding always goes the same way where a sum in fp32 has an odd step.
void check_large_sums(int64_t inputs, int codebooks, int size, lowbit_precision precision,
                      lowbit_dtype dtype = LOWBIT_F32) {
  Vector layer(9, inputs, codebooks, size, LOWBIT_F16);
  for (int64_t i = 0; i < int64_t{codebooks} * 256 * size; ++i) layer.books.set(i, 0.1f);
  for (const int64_t tokens : {1, 16, 60}) {
    Batch batch(layer, tokens, dtype, LOWBIT_F32);
    for (int64_t i = 0; i < tokens * batch.x_stride; ++i) batch.x.set(i, 0.7f);
    const double product = static_cast<double>(layer.books[0]) * batch.x[0];
    for (const int threads : {1, 2}) {
      lowbit_set_num_threads(threads);
      batch.run(layer, nullptr, precision);
      for (int64_t m = 0; m < tokens; ++m) {
        for (int64_t n = 0; n < layer.n; ++n) {
          const double expected = product * static_cast<double>(inputs * codebooks) * layer.scales[n];
          report(std::fabs(batch.y[m * batch.y_stride + n] - expected) <= 1e-5 * std::fabs(expected),
                 label(layer, precision, batch) + ": sum of the largest products");
        }
      }
    }
  }
  lowbit_set_num_threads(0);
}

// One-hot tokens of fp16 numbers that fill 11 bits times fp16 centroids of few bits, but for the last one,
// which fills 11 as well: every product fits fp32, and comes out to the bit.
void check_exact_products() {
  constexpr int64_t kClusters = 40, kInputs = 70;
  Channel layer(kClusters, kInputs, 0, kClusters, 1, 0, LOWBIT_F16);
  for (int64_t n = 0; n < kClusters; ++n) {
    layer.labels[static_cast<size_t>(n)] = static_cast<char>(n);
    for (int64_t k = 0; k < kInputs; ++k) {
      const int64_t steps = n < kClusters - 1 ? k % 2 * 1024 : k;
      layer.centroids.set(n * kInputs + k, 1.0f + 0x1p-10f * static_cast<float>(steps));
    }
  }
  Batch batch(layer, kInputs, LOWBIT_F16, LOWBIT_F32);
  for (int64_t m = 0; m < kInputs; ++m) {
    for (int64_t k = 0; k < kInputs; ++k) {
      batch.x.set(m * batch.x_stride + k, k == m ? 1.0f + 0x1p-10f * static_cast<float>(1023 - m) : 0.0f);
    }
  }
  batch.run(layer, nullptr, LOWBIT_FAST);
  for (int64_t m = 0; m < kInputs; ++m) {
    for (int64_t n = 0; n < kClusters; ++n) {
      report(batch.y[m * batch.y_stride + n] ==
                 layer.centroids[n * kInputs + m] * batch.x[m * batch.x_stride + m],
             label(layer, LOWBIT_FAST, batch) + ": exact product");
    }
  }
}

// Many tokens at `fast`, which tiles multiply by pieces where they are of 16 bits or int8 codes, with outputs
// in fp32 that show all digits: panels that are whole and not, rows to spare, tables whose entries have two
// pieces, one or more.
void check_pieces(lowbit_dtype dtype) {
  for (const lowbit_dtype tables : kDtypes) {
    const Vector vectors(37, 1099, 2, 8, tables), wide(97, 211, 1, 4, tables);
    const Channel channels(101, 333, 0, 45, 1, 7, tables), by_input(37, 211, 1, 23, 2, 9, tables);
    const Scalar scalars(37, 1099, 3, tables, false), outliers(97, 211, 6, tables, true);
    for (const Layer* layer :
         std::initializer_list<const Layer*>{&vectors, &wide, &channels, &by_input, &scalars, &outliers}) {
      for (const int64_t tokens : {48, 81, 257}) {
        check_values(*layer, Batch(*layer, tokens, dtype, LOWBIT_F32), LOWBIT_FAST, true);
      }
      check_invariance(*layer, 305, LOWBIT_FAST, {61, 257}, dtype);  // the last 48 in a block of their own
      check_non_finite(*layer, LOWBIT_FAST, 75, dtype);
    }
  }
  if (dtype == LOWBIT_F16) check_exact_products();
  check_large_sums(4200, 4, 2, LOWBIT_FAST, dtype);
  check_large_sums(131072, 1, 1, LOWBIT_FAST, dtype);
}

void check_layer(const Layer& layer) {
  for (const lowbit_precision precision : {LOWBIT_FAST, LOWBIT_HIGH, LOWBIT_EXACT}) {
    check_values(layer, 1, LOWBIT_F32, precision, false);
    check_values(layer, 2 + below(4), kDtypes[below(3)], precision, true);
  }
}

void check_refusals() {
  const Scalar layer(3, 40, 3, LOWBIT_F16, false);
  Batch batch(layer, 2, LOWBIT_F32);
  const auto refused = [&](const Scalar& bad, const char* what) {
    report(batch.run(bad, nullptr, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT,
           std::string("accepted: ") + what);
    report(std::strlen(lowbit_last_error()) > 0, std::string("no sentence: ") + what);
  };
  Scalar bad = layer;
  bad.c.bits = 9;
  refused(bad, "9 bits");
  bad = layer;
  bad.c.tables = nullptr;
  refused(bad, "no tables");
  bad = layer;
  bad.c.in_features = 41;
  refused(bad, "x too narrow");
  bad = layer;
  bad.c.out_features = 0;
  refused(bad, "no outputs");
  const lowbit_vector bias{batch.x.bytes.data(), LOWBIT_F32, 2};
  report(batch.run(layer, &bias, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT, "accepted: short bias");
  report(batch.run_rows(layer, nullptr, LOWBIT_EXACT, 0, 0) == LOWBIT_OK, "refused: no tokens");
  Channel labels(3, 40, 0, 4, 1, 0, LOWBIT_F16);
  labels.c.label_bytes = 3;
  report(batch.run(labels, nullptr, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT, "accepted: labels of 3 bytes");
  for (const int axis : {0, 1}) {
    for (const int bytes : {1, 2, 4}) {
      Channel beyond(3, 40, axis, 4, bytes, 0, LOWBIT_F16);
      std::memset(&beyond.labels[beyond.labels.size() - static_cast<size_t>(bytes)], 4, 1);
      report(batch.run(beyond, nullptr, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT, "accepted: label 4 of 4");
      std::memset(beyond.labels.data(), 0xff, static_cast<size_t>(bytes));  // -1, read as signed
      report(batch.run(beyond, nullptr, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT, "accepted: label -1");
    }
  }
  const auto refused_outliers = [&](int32_t offset, int32_t column, const char* what) {
    Scalar outliers(3, 40, 3, LOWBIT_F16, true);
    outliers.offsets = {offset, 2, 2, 3};
    outliers.columns = {0, 39, column};
    outliers.c.outlier_offsets = outliers.offsets.data();
    outliers.c.outlier_columns = outliers.columns.data();
    const Array values(LOWBIT_F16, 3);
    outliers.c.outlier_values = values.bytes.data();
    const bool good = offset == 0 && column >= 0 && column < 40;
    report(batch.run(outliers, nullptr, LOWBIT_FAST) == (good ? LOWBIT_OK : LOWBIT_INVALID_ARGUMENT), what);
  };
  refused_outliers(0, 1, "refused: good outliers");
  refused_outliers(-1, 1, "accepted: offsets from -1");
  refused_outliers(1, 1, "accepted: offsets from 1");
  refused_outliers(3, 1, "accepted: offsets that descend");
  refused_outliers(0, 40, "accepted: outlier in column 40 of 40");
  refused_outliers(0, -1, "accepted: outlier in column -1");
  refused_outliers(0, INT32_MIN, "accepted: outlier in the smallest column");
  Vector vectors(3, 40, 1, 8, LOWBIT_F16);
  vectors.c.vector_size = 0;
  report(batch.run(vectors, nullptr, LOWBIT_EXACT) == LOWBIT_INVALID_ARGUMENT, "accepted: vectors of 0");
}

void check_isa(lowbit_isa isa) {
  struct Shape {
    int64_t n, k;
  };
  const Shape shapes[] = {{1, 1}, {3, 7}, {17, 31}, {5, 129}, {9, 512}, {33, 640}, {6, 1543}};
  for (const Shape& shape : shapes) {
    for (const lowbit_dtype dtype : kDtypes) {
      for (int bits = 1; bits <= 8; ++bits) check_layer(Scalar(shape.n, shape.k, bits, dtype, bits % 2 == 0));
      for (const int axis : {0, 1}) {
        for (const int64_t rank : {0, 5}) {
          check_layer(Channel(shape.n, shape.k, axis, 1 + below(40), 1 << below(3), rank, dtype));
        }
      }
      for (const int size : {1, 2, 4, 8, 16, 3}) {
        check_layer(Vector(shape.n, shape.k, 1 + static_cast<int>(below(4)), size, dtype));
      }
    }
  }
  // Enough positions for several stretches, enough rows for several runs.
  check_layer(Vector(600, 2600, 2, 2, LOWBIT_F16));
  check_layer(Channel(300, 700, 1, 300, 2, 33, LOWBIT_BF16));

  // Scalar tables whose rows are expanded for 48 tokens or more, and have other bits there.
  const auto expanded = [isa](int bits, lowbit_precision precision) {
    if (isa == LOWBIT_ISA_AMX && precision == LOWBIT_FAST) return true;
    if (vectors_of(isa) == LOWBIT_ISA_AVX512) return precision != LOWBIT_FAST && bits >= 6;
    if (isa == LOWBIT_ISA_SCALAR || isa == LOWBIT_ISA_NEON) return false;
    return precision != LOWBIT_FAST || bits > 4;
  };
  for (const lowbit_precision precision : {LOWBIT_FAST, LOWBIT_EXACT}) {
    for (const int64_t tokens : {33, 70}) {
      for (int bits = 1; bits <= 8; ++bits) {
        check_invariance(Scalar(19, 645, bits, LOWBIT_F16, bits == 3),
                         expanded(bits, precision) ? tokens % 47 : tokens, precision);
      }
      // Channels have other bits by panels, from 48 tokens on, than for few tokens.
      const int64_t few = isa == LOWBIT_ISA_SCALAR || isa == LOWBIT_ISA_NEON ? tokens : tokens % 47;
      for (const int axis : {0, 1})
        check_invariance(Channel(29, 301, axis, 23, 1, 9, LOWBIT_F16), few, precision);
      // Rows that are expanded have other bits than those that are not; those of many rows and few codes are
      // never expanded, and their sums in fixed point stay the same.
      check_invariance(Vector(37, 1100, 3, 2, LOWBIT_F16), tokens % 47, precision);
      const bool integers = vectors_of(isa) == LOWBIT_ISA_AVX512 && precision == LOWBIT_FAST;
      if (integers) check_invariance(Vector(1200, 520, 1, 8, LOWBIT_F16), tokens, precision);
    }
    // More rows than are summed at a time.
    check_values(Vector(16389, 70, 1, 1, LOWBIT_F16), 33, LOWBIT_F32, precision, true);
    for (const int bits : {1, 3, 4, 5, 8})
      check_non_finite(Scalar(5, 300, bits, LOWBIT_F16, true), precision);
    for (const int axis : {0, 1}) {
      check_non_finite(Channel(5, 300, axis, 7, 1, 2, LOWBIT_F16), precision);
      check_non_finite(Channel(29, 300, axis, 7, 1, 2, LOWBIT_F16), precision, 75);
      for (const int64_t rank : {0, 9}) {
        check_invariance(Channel(131, 97, axis, 23, 1, rank, LOWBIT_BF16), 150, precision, {50, 51});
        for (const int64_t tokens : {48, 49, 65, 257, 273}) {
          check_values(Channel(37, 211, axis, 23, 2, rank, LOWBIT_F16), tokens, LOWBIT_F32, precision, true);
        }
      }
    }
    check_non_finite(Vector(5, 300, 2, 8, LOWBIT_F16), precision);
    check_non_finite(Vector(29, 300, 2, 8, LOWBIT_F16), precision, 75);
    check_values(Scalar(19, 645, 3, LOWBIT_F16, true), 33, LOWBIT_BF16, precision, true);
    // More rows than are finished at a time and more tokens than digits are stored for, with and without
    // tokens and rows to spare.
    for (const int bits : {3, 5}) {
      if (precision != LOWBIT_FAST || expanded(bits, precision)) continue;
      check_invariance(Scalar(131, 420, bits, LOWBIT_F16, true), 261, precision, {15, 17});
      check_values(Scalar(131, 420, bits, LOWBIT_F16, true), 261, LOWBIT_F32, precision, true);
      check_invariance(Scalar(131, 384, bits, LOWBIT_F16, false), 261, precision, {15, 17});  // four rows
      check_non_finite(Scalar(13, 384, bits, LOWBIT_F16, true), precision, 20);
    }
    check_values(Scalar(19, 645, 8, LOWBIT_F16, true), 70, LOWBIT_F32, precision, true);
    check_values(Channel(29, 301, 0, 23, 1, 9, LOWBIT_F16), 33, LOWBIT_F16, precision, true);
    check_values(Vector(37, 1100, 2, 8, LOWBIT_F16), 33, LOWBIT_BF16, precision, true);
    for (const int size : {1, 2, 4, 7, 8, 16}) {
      check_invariance(Vector(70, 101, 5, size, LOWBIT_BF16), 150, precision, {50, 51});
    }
    for (const int bits : {1, 3, 5, 6, 7, 8}) {
      check_invariance(Scalar(70, 101, bits, LOWBIT_BF16, true), 150, precision, {50, 51});
      check_values(Scalar(29, 300, bits, LOWBIT_F16, true), 65, LOWBIT_F32, precision, true);
    }
    check_values(Vector(37, 1099, 5, 8, LOWBIT_BF16), 300, LOWBIT_F32, precision, true);
    for (const int size : {1, 2, 4, 7, 16}) {
      for (const int64_t tokens : {48, 49, 64, 65, 257, 273}) {
        check_values(Vector(37, 211, 5, size, LOWBIT_BF16), tokens, LOWBIT_F32, precision, true);
      }
    }
  }
  for (const lowbit_precision precision : {LOWBIT_FAST, LOWBIT_EXACT}) {
    check_large_sums(4200, 4, 2, precision);
    check_large_sums(14336, 1, 1, precision);
    check_large_sums(131072, 1, 1, precision);
  }
  for (int bits = 1; bits <= 8; ++bits) check_one_hot(Scalar(7, 600, bits, LOWBIT_F16, false));
  check_one_hot(Channel(7, 60, 0, 5, 1, 0, LOWBIT_BF16));
  check_one_hot(Channel(7, 60, 1, 5, 1, 0, LOWBIT_BF16));
  if (isa != LOWBIT_ISA_AMX) return;
  for (const lowbit_dtype dtype : kDtypes) check_pieces(dtype);
}

}  // namespace

int main() {
  for (const lowbit_isa isa : {LOWBIT_ISA_SCALAR, LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512,
                               LOWBIT_ISA_AMX, LOWBIT_ISA_NEON}) {
    if (!lowbit_isa_available(isa)) continue;
    lowbit_set_isa(isa);
    check_isa(isa);
    check_refusals();
    std::printf("%s: %d failures so far\n", lowbit_isa_name(isa), failures);
  }
  return failures == 0 ? 0 : 1;
}
