// Products of vector codebooks on fp16 tensor cores: the entries that the codes name are operands as they lie
// in shared memory. The weight is never expanded beyond registers, and the work does not depend on the number
// of tokens up to 16.
//
//   block   16 warps = row warps x input warps. A warp has 2 tiles of 16 rows and every input_warps-th chunk
//   of codes;
//           the sums of the input warps meet in shared memory in ascending order. The block walks over the
//           rows, so that it loads the codebooks once. blockIdx.y counts blocks of 16 columns.
//
// The product is y^T: activations are A (16 columns x 16 inputs), weights are B (16 inputs x 8 rows). So one
// load of an entry fills the two (v = 8: four) registers of B in their order, no register has to move:
//
//   code of row g, position t  ---LDS 16 bytes (v = 4: 8)--->  B of v / 4 products for rows 0 .. 7 of a tile
//   code of row g + 8          ---LDS--->                      the same for rows 8 .. 15
//   columns, staged as A       ---LDG 16 bytes--->             A of one product
//
// Each entry is there `copies` times, side by side, and a lane reads copy lane % copies: with 8 (v = 4: 16)
// copies the lanes that one pass of shared memory serves never meet in a bank, whatever their codes.
//
//   copy      0        1              7
//   entry 0   [16 B]   [16 B]   ...   [16 B]     128 bytes = all 32 banks
//   entry 1   [16 B]   [16 B]   ...   [16 B]
//
// WHY NOT sums of products by code, which read one fp32 number for each code and token? With v = 8 and two
// codebooks, 512 weights (16 rows, 32 inputs) are 128 codes; in cycles of a multiprocessor, 128 bytes of
// shared memory each:
//
//              sums by code, M tokens       this kernel, M <= 16             dequantise, then a dense product
//   reads      4 M, x 2.6 for conflicts     16 (entries) + 4 (columns)       -
//   products   -                            8 of m16n8k16, 2 cycles each     -
//   bytes      128                          128                              128 + 2 x 1024 written and read
//
// so the tensor form needs fewer cycles from two tokens on, 20 against 166 with 16 tokens. At 20 cycles for
// 512 weights a multiprocessor takes 25 weights a cycle: an H100 (132 of them at 1.755 GHz) 5.9e12 a second,
// 44 % of what its memory delivers. Dequantising moves 4.25 bytes for each weight, of which 3.35e12 bytes/s
// make 0.8e12 a second at best: seven times less. These are counts from published rates, not measurements.
#include <type_traits>

#include "cuda/codebook/values.h"
#include "cuda/codebook/vector.h"
#include "cuda/plan/codebook.h"
#include "cuda/ptx/grid.h"
#include "cuda/ptx/integer.h"
#include "cuda/ptx/memory.h"
#include "cuda/ptx/mma.h"

namespace lowbit::cuda::codebook {
namespace {

constexpr int kWarps = kTensorWarps;
constexpr int kTiles = kTensorTiles;
constexpr int kSums = kTensorSums;

struct Params {
  VectorWeight weight;
  HalfColumns x;
  Result result;
  int32_t chunks, groups;  // a group is kTiles tiles
  int32_t copies;          // of every entry, a power of two
  int32_t input_warps;
};

// v halves, as registers of B.
template <int kSize>
using Entry = std::conditional_t<kSize == 8, uint4, uint2>;

LOWBIT_DEVICE void add_entry(const uint4 (&a)[2], const uint4& entry, float (&sums)[4]) {
  mma_f16(sums, {a[0].x, a[0].y, a[0].z, a[0].w}, {entry.x, entry.y});
  mma_f16(sums, {a[1].x, a[1].y, a[1].z, a[1].w}, {entry.z, entry.w});
}

LOWBIT_DEVICE void add_entry(const uint4 (&a)[1], const uint2& entry, float (&sums)[4]) {
  mma_f16(sums, {a[0].x, a[0].y, a[0].z, a[0].w}, {entry.x, entry.y});
}

// The codes that a warp reads: its chunks of one group, then of the next group of the block.
class Walk {
 public:
  LOWBIT_DEVICE Walk(const Params& p, int input_warp, int group, int stride)
      : p_(p), input_warp_(input_warp), stride_(stride), lane_(threadIdx.x % 32) {
    begin(group);
  }

  // The codes of the place reached; goes on to the next.
  LOWBIT_DEVICE void load(uint4 (&codes)[kTiles]) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      codes[j] = j < tiles_ ? load_stream(from_ + int64_t{j} * p_.chunks * 32) : uint4{};
    }
    left_ -= p_.input_warps;
    from_ += p_.input_warps * 32;
    if (left_ <= 0) begin(group_ + stride_);
  }

 private:
  LOWBIT_DEVICE void begin(int group) {
    group_ = group;
    left_ = p_.chunks - input_warp_;
    tiles_ = left_ > 0 ? static_cast<int>(p_.weight.tiles()) - group * kTiles : 0;
    from_ = p_.weight.codes + (int64_t{group} * kTiles * p_.chunks + input_warp_) * 32 + lane_;
  }

  const Params& p_;
  const int input_warp_, stride_, lane_;
  int group_, left_, tiles_;
  const uint4* from_;
};

template <int kSize>
__global__ void __launch_bounds__(32 * kWarps, 1) tensor_kernel(const Params p) {
  constexpr int kProducts = kSize / 4;    // m16n8k16 that the inputs of a step take
  LOWBIT_DYNAMIC_SHARED(float, partial);  // [kWarps][kSums][32 lanes], then the entries
  Entry<kSize>* const entries = reinterpret_cast<Entry<kSize>*>(partial + kWarps * kSums * 32);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_warps = kWarps / p.input_warps, row_warp = warp / p.input_warps,
            input_warp = warp % p.input_warps;
  const int stride =
      static_cast<int>(gridDim.x) * row_warps;  // groups from one turn of the block to its next
  const int books = p.weight.num_codebooks;

  Walk walk(p, input_warp, static_cast<int>(blockIdx.x) * row_warps + row_warp, stride);
  uint4 next[kTiles];
  walk.load(next);

  const auto* const canonical = reinterpret_cast<const Entry<kSize>*>(p.weight.halves);
  const int copy_shift = __ffs(p.copies) - 1;
  for (int i = threadIdx.x; i < books * kEntries << copy_shift; i += 32 * kWarps) {
    entries[i] = canonical[i >> copy_shift];
  }
  const uint32_t entry_bytes = static_cast<uint32_t>(sizeof(Entry<kSize>)) << copy_shift;
  const uint32_t book_bytes = kEntries * entry_bytes, all_books = books * book_bytes;
  const SharedAddress of_lane(entries + (lane & (p.copies - 1)));
  __syncthreads();
  wait_for_previous_kernel();

  const int64_t column_loads = p.x.padded_inputs / (4 * kSize) * kProducts * 32;  // of a block of columns
  const uint4* const columns = reinterpret_cast<const uint4*>(p.x.values) + blockIdx.y * column_loads + lane;
  const float halves_scale = *p.weight.halves_scale;
  // From the pair behind a chunk to the warp's next chunk.
  const int skipped_x = (p.input_warps - 1) * kChunkPairs / books * kProducts * 32;
  const uint32_t skipped_books = (p.input_warps - 1) * kChunkPairs % books * book_bytes;

  for (int turn = blockIdx.x * row_warps; turn < p.groups; turn += stride) {
    float sums[kTiles][2][4] = {};
    // The codebook and the columns of the next pair.
    uint32_t book = input_warp * kChunkPairs % books * book_bytes;
    int x = input_warp * kChunkPairs / books * kProducts * 32;
#pragma unroll 1
    for (int chunk = input_warp; chunk < p.chunks; chunk += p.input_warps) {
      uint32_t codes[kTiles][4];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        codes[j][0] = next[j].x;
        codes[j][1] = next[j].y;
        codes[j][2] = next[j].z;
        codes[j][3] = next[j].w;
      }
      walk.load(next);

      uint4 a[kProducts] = {};
#pragma unroll
      for (int i = 0; i < kChunkPairs; ++i) {
        if (i == 0 || book == 0) {
#pragma unroll
          for (int k = 0; k < kProducts; ++k) a[k] = load_cached(columns + x + k * 32);
        }
        const SharedAddress of_book = of_lane + book;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t code = permute_bytes(codes[j][i / 2], 0, 0x4440u + 2 * (i % 2) + h);
            Entry<kSize> entry;
            (of_book + code * entry_bytes).load(entry);
            add_entry(a, entry, sums[j][h]);
          }
        }
        book += book_bytes;
        if (book == all_books) {
          book = 0;
          x += kProducts * 32;
        }
      }
      book += skipped_books;
      x += skipped_x;
      if (book >= all_books) {
        book -= all_books;
        x += kProducts * 32;
      }
    }

#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 4; ++i) partial[(warp * kSums + (2 * j + h) * 4 + i) * 32 + lane] = sums[j][h][i];
      }
    }
    __syncthreads();
    for (int e = input_warp * 32 + lane; e < kSums * 32; e += p.input_warps * 32) {
      const int from = e % 32, i = e / 32 % 4, half = e / 128 % 2, tile = e / 256;
      const auto sum_of = [&](int index) {
        float sum = partial[row_warp * p.input_warps * kSums * 32 + index];
        for (int w = 1; w < p.input_warps; ++w)
          sum += partial[(row_warp * p.input_warps + w) * kSums * 32 + index];
        return sum;
      };
      const int64_t row =
          (int64_t{turn + row_warp} * kTiles + tile) * kRowTile + 8 * half + 2 * (from % 4) + i % 2;
      const int column = from / 4 + 8 * (i / 2);
      const int64_t token = int64_t{blockIdx.y} * p.x.block_tokens() + column;
      if (row >= p.weight.out_features || token >= p.x.tokens || column >= p.x.block_tokens()) continue;
      float sum = sum_of(e);
      // The second column of a token is 8 further: elements i + 2 of the same lane.
      if (p.x.per_token == 2) sum += sum_of(e + 64);
      const float row_scale = load_value(p.weight.out_scales, p.weight.dtype, row) * halves_scale;
      store_sum(p.result, token, row, sum * p.x.scales[token] * row_scale);
    }
    __syncthreads();
  }
}

}  // namespace

void product_tensor(const VectorWeight& weight, const HalfColumns& x, const Result& result, const Plan& plan,
                    Stream stream) {
  Params p{};
  p.weight = weight;
  p.x = x;
  p.result = result;
  p.chunks = static_cast<int32_t>(weight.chunks());
  p.groups = static_cast<int32_t>((weight.tiles() + kTiles - 1) / kTiles);
  p.copies = plan.copies;
  p.input_warps = plan.input_warps;
  Shape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.passes));
  shape.block = dim3(32 * kWarps);
  shape.dynamic_shared = plan.shared_bytes;
  shape.overlaps_previous = true;
  launch(weight.vector_size == 8 ? tensor_kernel<8> : tensor_kernel<4>, shape, stream, p);
}

}  // namespace lowbit::cuda::codebook
