#include "cuda/activations/halves.h"
#include "cuda/activations/octets.h"
#include "cuda/activations/prologue.h"
#include "cuda/activations/quantize.h"
#include "cuda/activations/reduce.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/integer.h"

// One block prepares one token of one set. A thread handles octets of eight inputs, one in each round of the
// block: one 16-byte load of fp16, 8 bytes of codes. An aligned group of 16 threads has the 128 inputs of a
// scale, 4 threads the 32 inputs of the finest unit of sums.
//
// What a single token waits for is a chain of dependent steps, each far below the cost of its arithmetic on a
// full GPU: x and router arrive - barrier - softmax - input scales arrive - barrier - codes - barrier (sums
// of whole rows only). Routers and input scales are on their way from DRAM to L2 before x is even complete.
// Loops over octets stay loops: unrolled, the code would not fit the instruction caches, and it runs once.
//
// Up to 16,384 inputs z waits in shared memory for the scale that its codes need. Longer tokens are read
// again and z is computed again, by the same operations.
namespace lowbit::cuda {
namespace {

constexpr int kMaxThreads = 512;  // with 128 registers nothing spills, whatever the architecture
constexpr int kMaxKeptOctets = 2048;
constexpr int kSuperblock = 128;  // octets in 1024 inputs; threads come in multiples of it
constexpr int kGroupLanes = 16;   // octets that share a scale in `fast`
constexpr int kExpertsAtOnce = 4;

template <class Out>
struct Params {
  PrologueInput input;
  ActivationKind kind;
  Unit unit;
  float sums_factor;
  Out out;
};

// Dynamic shared memory: this, staged codes of an octet per thread (planes alone), z.
struct alignas(16) ReduceMemory {
  float4 logits[2][32];
  uint32_t magnitudes[32];
  int32_t totals[2][32];
  float sums[32];
};

// One token of one set, as its block sees it. kKept: z waits in shared memory, its lower and upper halves of
// octets apart, so that neighbours meet different banks.
template <bool kKept>
class Token {
 public:
  LOWBIT_DEVICE Token(const PrologueInput& input, int64_t padded_inputs, float4* kept)
      : mix_(input.mixes[blockIdx.y]),
        in_features_(input.in_features),
        octets_(static_cast<int>(padded_inputs / kOctet)),
        x_(static_cast<const char*>(input.x) +
               static_cast<int64_t>(blockIdx.x) * input.stride * (input.dtype == LOWBIT_F32 ? 4 : 2),
           input.dtype, input.in_features),
        kept_(kept) {}

  // Constant data, so this may run before the previous kernel has finished.
  LOWBIT_DEVICE void prefetch_tables() const {
    each_octet([&](int octet) {
      if (octet % 4 != 0) return;  // a line of 128 bytes holds four octets of fp32, eight of fp16
      for (int e = 0; e < mix_.experts; ++e) {
        if (mix_.experts > 1) row(mix_.router, e).prefetch(octet);
        row(mix_.in_scales, e).prefetch(octet);
      }
    });
  }

  // Gates of this token; lane e of every warp keeps that of expert e.
  LOWBIT_DEVICE void route(float4 (&partial)[2][32]) {
    if (mix_.experts <= 1) {
      gate_ = 1.0f;
      return;
    }
    const int lane = static_cast<int>(threadIdx.x % 32);
    float logit = -__uint_as_float(kInfinityBits);
    for (int first = 0, parity = 0; first < mix_.experts; first += kExpertsAtOnce, parity ^= 1) {
      float dots[kExpertsAtOnce] = {};
      each_octet([&](int octet) {
        RawOctet raw[kExpertsAtOnce];
        load_tables(mix_.router, first, octet, raw);
        float x[kOctet], table[kOctet];
        widen(x_.load(octet), x_.dtype(), x);
#pragma unroll
        for (int e = 0; e < kExpertsAtOnce; ++e) {
          widen(raw[e], mix_.dtype, table);
#pragma unroll
          for (int j = 0; j < kOctet; ++j) dots[e] = fmaf(x[j], table[j], dots[e]);
        }
      });
      // The buffer of two rounds ago: all its readers have passed the barrier in between.
      const float sum = sum_four_block(dots, partial[parity]);
      const float mine = __shfl_sync(kAllLanes, sum, kOctet * (lane % kExpertsAtOnce));
      if (lane >= first && lane < first + kExpertsAtOnce && lane < mix_.experts) logit = mine;
    }
    // A NaN among the logits makes the total, and with it every gate, NaN.
    const float exponential = expf(logit - reduce_lanes<32>(logit, Largest{}));
    gate_ = exponential / reduce_lanes<32>(exponential, Sum{});
  }

  // The bits of the largest magnitude of z; those of infinity or more say that not all of z is finite.
  LOWBIT_DEVICE uint32_t mix(uint32_t* partial) {
    uint32_t largest = 0;
    each_octet([&](int octet) {
      float z[kOctet];
      compute(octet, z);
      largest = Largest{}(largest, largest_magnitude(z));
      if constexpr (kKept) {
        kept_[octet] = {z[0], z[1], z[2], z[3]};
        kept_[octets_ + octet] = {z[4], z[5], z[6], z[7]};
      }
    });
    return reduce_block(largest, partial, Largest{});
  }

  // z, after mix(): of this thread's octets.
  LOWBIT_DEVICE void values(int octet, float (&z)[kOctet]) const {
    if constexpr (kKept) {
      const float4 low = kept_[octet], high = kept_[octets_ + octet];
      z[0] = low.x, z[1] = low.y, z[2] = low.z, z[3] = low.w;
      z[4] = high.x, z[5] = high.y, z[6] = high.z, z[7] = high.w;
    } else {
      compute(octet, z);
    }
  }

  LOWBIT_DEVICE void store_gates(float* gates) const {
    if (static_cast<int>(threadIdx.x) < mix_.experts) gates[threadIdx.x] = gate_;
  }

  // body(octet) for this thread's octets. Warps have 32 octets of a round or none.
  template <class Body>
  LOWBIT_DEVICE void each_octet(Body body) const {
#pragma unroll 1
    for (int octet = static_cast<int>(threadIdx.x); octet < octets_; octet += static_cast<int>(blockDim.x)) {
      body(octet);
    }
  }

  LOWBIT_DEVICE int octets() const { return octets_; }
  // How many of the octet's inputs exist.
  LOWBIT_DEVICE int inputs(int octet) const {
    const int64_t left = in_features_ - int64_t{kOctet} * octet;
    return left > kOctet ? kOctet : static_cast<int>(left);
  }

  static LOWBIT_DEVICE uint32_t largest_magnitude(const float (&z)[kOctet]) {
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) largest = Largest{}(largest, magnitude_bits(z[j]));
    return largest;
  }

 private:
  LOWBIT_DEVICE Row row(const void* table, int expert) const {
    const int64_t offset = expert * in_features_ * (mix_.dtype == LOWBIT_F32 ? 4 : 2);
    return Row(static_cast<const char*>(table) + offset, mix_.dtype, in_features_);
  }

  LOWBIT_DEVICE void load_tables(const void* table, int first, int octet,
                                 RawOctet (&raw)[kExpertsAtOnce]) const {
#pragma unroll
    for (int e = 0; e < kExpertsAtOnce; ++e) {
      raw[e] = first + e < mix_.experts ? row(table, first + e).load(octet) : RawOctet{};
    }
  }

  // z = x * sum_e gate_e in_scales[e], in ascending e; x without experts.
  LOWBIT_DEVICE void compute(int octet, float (&z)[kOctet]) const {
    const RawOctet x = x_.load(octet);
    float scales[kOctet] = {};
    for (int first = 0; first < mix_.experts; first += kExpertsAtOnce) {
      RawOctet raw[kExpertsAtOnce];
      load_tables(mix_.in_scales, first, octet, raw);
#pragma unroll
      for (int e = 0; e < kExpertsAtOnce; ++e) {
        float table[kOctet];
        widen(raw[e], mix_.dtype, table);
        const float gate = __shfl_sync(kAllLanes, gate_, first + e);
        if (first + e >= mix_.experts) continue;
#pragma unroll
        for (int j = 0; j < kOctet; ++j) scales[j] = fmaf(gate, table[j], scales[j]);
      }
    }
    widen(x, x_.dtype(), z);
    if (mix_.experts == 0) return;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) z[j] *= scales[j];
  }

  Mix mix_;
  int64_t in_features_;
  int octets_;
  Row x_;
  float gate_ = 0.0f;
  float4* kept_;
};

LOWBIT_DEVICE uint32_t pack(int a, int b, int c, int d) {
  return permute_bytes(permute_bytes(a, b, 0x0040), permute_bytes(c, d, 0x0040), 0x5410);
}

// Octet o of a group of 128 inputs holds inputs 32 q + 8 t .. + 7 with q = o / 4, t = o % 4.
LOWBIT_DEVICE int64_t code_position(int octet) {
  const int o = octet % kGroupLanes;
  return int64_t{kGroupBytes} * (octet / kGroupLanes) + kHalfGroupBytes * (o / 8) + 16 * (o % 4) +
         8 * (o / 4 % 2);
}

template <bool kKept>
LOWBIT_DEVICE uint32_t prepare(Token<kKept>& token, float* gates, ReduceMemory& memory) {
  token.prefetch_tables();
  wait_for_previous_kernel();
  // At once: this kernel's blocks are all running by the time the last one gets here, so the next kernel
  // takes no place from them, and it can fetch its first weights meanwhile.
  release_next_kernel();
  token.route(memory.logits);
  token.store_gates(gates);
  return token.mix(memory.magnitudes);
}

// Adds up the codes of a unit of 32 or 128 inputs from its lanes' octets: of which it returns the sum, too.
LOWBIT_DEVICE int store_unit_sum(int sum, int octet, Unit unit, float scale, float* sums) {
  sum = reduce_lanes<4>(sum, Sum{});
  if (unit == Unit::inputs_32) {
    if (octet % 4 == 0) sums[Columns::place_of(octet / 4)] = scale * static_cast<float>(sum);
    return sum;
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 4);
  sum += __shfl_xor_sync(kAllLanes, sum, 8);
  if (octet % kGroupLanes == 0) {
    sums[Columns::place_of(octet / kGroupLanes)] = scale * static_cast<float>(sum);
  }
  return sum;
}

// The bits of a power of two near the largest magnitude of a token, of which these are the bits; one over it
// is a number as well.
LOWBIT_DEVICE uint32_t power_bits(uint32_t amax) {
  constexpr uint32_t kMost = 253u << 23;
  const uint32_t bits = amax & kInfinityBits;
  return bits > kMost ? kMost : bits;
}

// What sums that are read as subnormal numbers want of `group`: its scale by the range of the token, the sum
// of its codes, and whether it has all of its inputs.
LOWBIT_DEVICE void store_group(const Columns& out, int32_t set, int64_t m, int group, float relative,
                               float factor, int sum, bool whole) {
  const int field = group % kSpanFields;
  const auto start = static_cast<float>(subnormal_start(out.start, field) >> field);
  const float rest = whole ? factor * static_cast<float>(sum) - start : -start;
  out.groups_of(set, m)[group * kGroupTokens] = {relative * __uint_as_float((127u + 126u - field) << 23),
                                                 rest * relative * kSubnormalUnit};
}

template <bool kKept>
__global__ void __launch_bounds__(kMaxThreads) columns_prologue(const Params<Columns> p) {
  LOWBIT_DYNAMIC_SHARED(ReduceMemory, memory);
  const Columns& out = p.out;
  const auto set = static_cast<int32_t>(blockIdx.y);
  const int64_t m = blockIdx.x;
  Token<kKept> token(p.input, out.padded_inputs, reinterpret_cast<float4*>(memory + 1));
  const uint32_t amax = prepare(token, out.gates_of(set, m), *memory);
  if (set == 0 && m == 0) {
    for (int64_t i = threadIdx.x; i < out.arrival_count; i += blockDim.x) out.arrivals[i] = 0;
  }
  const bool live = amax < kInfinityBits;
  const bool fast = p.kind.bits == 0 && p.kind.precision == LOWBIT_FAST;
  const bool grouped = out.grouped();
  Quantizer quantizer(p.kind);
  if (!fast) quantizer.set_range(amax, live);

  float row_sum = 0.0f;
  int32_t totals[2] = {};
  token.each_octet([&](int octet) {
    float z[kOctet];
    token.values(octet, z);
    if (fast) quantizer.set_range(reduce_lanes<kGroupLanes>(token.largest_magnitude(z), Largest{}), live);
    const int inputs = token.inputs(octet);
    int codes[kOctet], high[kOctet];
    int sum = 0, high_sum = 0;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) {
      codes[j] = j < inputs ? quantizer.code(z[j]) : 0;
      high[j] = (codes[j] + 128) >> 8;
      sum += codes[j];
      high_sum += high[j];
    }
    // The low byte of a code is that of code - 256 high, too.
    const int64_t position = code_position(octet);
    const uint2 low_bytes = {pack(codes[0], codes[1], codes[2], codes[3]),
                             pack(codes[4], codes[5], codes[6], codes[7])};
    if (out.per_token == 1) {
      *reinterpret_cast<uint2*>(out.codes_of(set, m) + position) = low_bytes;
      totals[0] += sum;
    } else {
      *reinterpret_cast<uint2*>(out.codes_of(set, 2 * m) + position) = {
          pack(high[0], high[1], high[2], high[3]), pack(high[4], high[5], high[6], high[7])};
      *reinterpret_cast<uint2*>(out.codes_of(set, 2 * m + 1) + position) = low_bytes;
      totals[0] += high_sum;
      totals[1] += sum - 256 * high_sum;
    }
    if (!grouped) return;
    if (octet % kGroupLanes == 0) {
      out.scales_of(set, m)[Columns::place_of(octet / kGroupLanes)] = quantizer.scale();
    }
    if (p.unit == Unit::row) {
      row_sum += quantizer.scale() * static_cast<float>(sum);
      return;
    }
    const float scale = p.sums_factor * quantizer.scale();
    const int unit_sum = store_unit_sum(sum, octet, p.unit, scale, out.sums_of(set, m));
    if (out.start != 0 && octet % kGroupLanes == 0) {
      const int group = octet / kGroupLanes;
      const bool whole = p.input.in_features >= int64_t{kScaleInputs} * (group + 1);
      const float relative =
          fast ? quantizer.scale() * __uint_as_float((254u << 23) - power_bits(amax)) : 1.0f;
      store_group(out, set, m, group, relative, p.sums_factor, unit_sum, whole);
    }
  });

  if (out.start != 0 && threadIdx.x == 0) {
    *out.range_of(set, m) = fast ? __uint_as_float(power_bits(amax)) : quantizer.scale();
  }
  if (!grouped) {
    totals[0] = reduce_block(totals[0], memory->totals[0], Sum{});
    totals[1] = reduce_block(totals[1], memory->totals[1], Sum{});
    if (threadIdx.x != 0) return;
    *out.scales_of(set, m) = quantizer.scale();
    *out.totals_of(set, m * out.per_token) = totals[0];
    if (out.per_token == 2) *out.totals_of(set, 2 * m + 1) = totals[1];
  } else if (p.unit == Unit::row) {
    row_sum = reduce_block(row_sum, memory->sums, Sum{});
    if (threadIdx.x == 0) *out.sums_of(set, m) = p.sums_factor * row_sum;
  }
}

template <bool kKept>
__global__ void __launch_bounds__(kMaxThreads) floats_prologue(const Params<FloatColumns> p) {
  LOWBIT_DYNAMIC_SHARED(ReduceMemory, memory);
  const FloatColumns& out = p.out;
  const auto set = static_cast<int32_t>(blockIdx.y);
  const int64_t m = blockIdx.x;
  Token<kKept> token(p.input, out.padded_inputs, reinterpret_cast<float4*>(memory + 1));
  const bool live = prepare(token, out.gates_of(set, m), *memory) < kInfinityBits;
  token.each_octet([&](int octet) {
    float z[kOctet];
    token.values(octet, z);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) {
      if (!live) z[j] = __uint_as_float(kNanBits);
    }
    auto* const values = reinterpret_cast<float4*>(out.values_of(set, m)) + 2 * int64_t{octet};
    values[0] = {z[0], z[1], z[2], z[3]};
    values[1] = {z[4], z[5], z[6], z[7]};
  });
}

template <bool kKept>
__global__ void __launch_bounds__(kMaxThreads) halves_prologue(const Params<HalfColumns> p) {
  LOWBIT_DYNAMIC_SHARED(ReduceMemory, memory);
  const HalfColumns& out = p.out;
  const auto set = static_cast<int32_t>(blockIdx.y);
  const int64_t m = blockIdx.x;
  Token<kKept> token(p.input, out.padded_inputs, reinterpret_cast<float4*>(memory + 1));
  const uint32_t amax = prepare(token, out.gates_of(set, m), *memory);
  const bool live = amax < kInfinityBits;
  const HalfRange range(amax);
  auto* const row = reinterpret_cast<uint4*>(out.values_of(set, m));
  token.each_octet([&](int octet) {
    float z[kOctet];
    token.values(octet, z);
    if (octet < out.row_inputs / kOctet) row[octet] = live ? range.pack(z) : uint4{};
  });
  if (threadIdx.x == 0) *out.scales_of(set, m) = live ? range.inverse() : __uint_as_float(kNanBits);
}

// Swaps, in every byte of two words, the bits that `mask` picks from `low` << distance and from `high`.
LOWBIT_DEVICE void swap_bits(uint32_t& low, uint32_t& high, int distance, uint32_t mask) {
  const uint32_t change = ((low >> distance) ^ high) & mask;
  high ^= change;
  low ^= change << distance;
}

// Eight words are four 8 x 8 bit matrices, one per byte position: row r is that byte of words[r]. Transposes
// them.
LOWBIT_DEVICE void transpose_bits(uint32_t (&words)[8]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) swap_bits(words[r], words[r + 4], 4, 0x0f0f0f0fu);
#pragma unroll
  for (int r = 0; r < 8; r += r % 4 == 1 ? 3 : 1) swap_bits(words[r], words[r + 2], 2, 0x33333333u);
#pragma unroll
  for (int r = 0; r < 8; r += 2) swap_bits(words[r], words[r + 1], 1, 0x55555555u);
}

// Words of the planes are made superblock by superblock from codes in shared memory, 16 bits each, in the
// order of the inputs. With (q, t, h) fixed, the four inputs i of field f are 8 bytes in a row:
//
//   staged code of input 128 f + 32 q + 8 t + 4 h + i       row f, byte i of eight words: low or high byte of
//   it plane p                                                 row p, byte i, bit f: the transpose
template <bool kKept>
__global__ void __launch_bounds__(kMaxThreads) planes_prologue(const Params<Planes> p) {
  LOWBIT_DYNAMIC_SHARED(ReduceMemory, memory);
  auto* const staged = reinterpret_cast<uint4*>(memory + 1);
  const Planes& out = p.out;
  const auto set = static_cast<int32_t>(blockIdx.y);
  const int64_t m = blockIdx.x;
  Token<kKept> token(p.input, out.padded_inputs, reinterpret_cast<float4*>(staged + blockDim.x));
  const uint32_t amax = prepare(token, out.gates_of(set, m), *memory);
  Quantizer quantizer(p.kind);
  quantizer.set_range(amax, amax < kInfinityBits);

  int32_t totals[2] = {};  // of the high parts and of what is left, as in Columns: each fits 32 bits
  for (int first = 0; first < token.octets(); first += static_cast<int>(blockDim.x)) {
    const int octet = first + static_cast<int>(threadIdx.x);
    if (octet < token.octets()) {
      float z[kOctet];
      token.values(octet, z);
      const int inputs = quantizer.usable() ? token.inputs(octet) : 0;
      uint32_t bits[kOctet];
#pragma unroll
      for (int j = 0; j < kOctet; ++j) {
        const int code = j < inputs ? quantizer.code(z[j]) : 0;
        const int high = (code + 128) >> 8;
        totals[0] += high;
        totals[1] += code - 256 * high;
        const int planes = out.bits == 0 ? code : (code + quantizer.max_code()) / 2 | 1 << out.bits;
        bits[j] = j < inputs ? planes & 0xffff : 0;
      }
      staged[threadIdx.x] = {bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16,
                             bits[6] | bits[7] << 16};
    }
    __syncthreads();
    // A superblock has 32 words of a plane, for each of which one thread makes planes 0..7, another 8..15.
    const int left = token.octets() - first;
    const int words =
        32 * ((left < static_cast<int>(blockDim.x) ? left : static_cast<int>(blockDim.x)) / kSuperblock);
    for (int task = static_cast<int>(threadIdx.x); task < 2 * words; task += blockDim.x) {
      const int word = task % words, first_plane = 8 * (task / words);
      if (first_plane >= out.per_token) break;
      const uint2* const codes = reinterpret_cast<const uint2*>(staged) + 256 * (word / 32) + word % 32;
      uint32_t rows[8];
#pragma unroll
      for (int f = 0; f < 8; ++f) {
        const uint2 four = codes[32 * f];
        rows[f] = permute_bytes(four.x, four.y, first_plane == 0 ? 0x6420 : 0x7531);
      }
      transpose_bits(rows);
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        const int plane = first_plane + r;
        if (plane < out.per_token) {
          out.words_of(set, m * out.per_token + plane)[first / 4 + word] = rows[r];
        }
      }
    }
    __syncthreads();
  }

  totals[0] = reduce_block(totals[0], memory->totals[0], Sum{});
  totals[1] = reduce_block(totals[1], memory->totals[1], Sum{});
  if (threadIdx.x != 0) return;
  const int64_t total = int64_t{256} * totals[0] + totals[1];
  const int64_t index = set * out.tokens + m;
  out.totals[index] = total;
  out.scales[index] = quantizer.scale();
}

// As few rounds as a block allows, equally long ones.
int thread_count(int64_t octets) {
  const int64_t rounds = (octets + kMaxThreads - 1) / kMaxThreads;
  const int64_t threads = (octets + rounds - 1) / rounds;
  return static_cast<int>((threads + kSuperblock - 1) / kSuperblock * kSuperblock);
}

template <class Out>
void launch_prologue(void (*kept)(Params<Out>), void (*recomputed)(Params<Out>), size_t bytes_per_thread,
                     const Params<Out>& params, Stream stream) {
  if (params.input.tokens == 0) return;
  const int64_t octets = params.out.padded_inputs / kOctet;
  const int threads = thread_count(octets);
  const bool keep = octets <= kMaxKeptOctets;
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(params.input.tokens), static_cast<unsigned>(params.out.sets));
  shape.block = dim3(static_cast<unsigned>(threads));
  shape.dynamic_shared = sizeof(ReduceMemory) + threads * bytes_per_thread;
  if (keep) shape.dynamic_shared += static_cast<size_t>(octets) * kOctet * sizeof(float);
  shape.overlaps_previous = true;
  launch(keep ? kept : recomputed, shape, stream, params);
}

}  // namespace

void stage(const PrologueInput& input, const Staging& staging, const ActivationKind& kind, const Columns& out,
           Stream stream) {
  launch_prologue(columns_prologue<true>, columns_prologue<false>, 0,
                  {input, kind, staging.unit, staging.sums_factor, out}, stream);
}

void stage(const PrologueInput& input, const FloatColumns& out, Stream stream) {
  launch_prologue(floats_prologue<true>, floats_prologue<false>, 0,
                  {input, {LOWBIT_EXACT, 0}, Unit::row, 1.0f, out}, stream);
}

void stage(const PrologueInput& input, const HalfColumns& out, Stream stream) {
  launch_prologue(halves_prologue<true>, halves_prologue<false>, 0,
                  {input, {LOWBIT_HIGH, 0}, Unit::row, 1.0f, out}, stream);
}

void stage(const PrologueInput& input, const ActivationKind& kind, const Planes& out, Stream stream) {
  launch_prologue(planes_prologue<true>, planes_prologue<false>, sizeof(uint4),
                  {input, kind, Unit::row, 1.0f, out}, stream);
}

}  // namespace lowbit::cuda
