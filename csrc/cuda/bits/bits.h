// Products of prepared activations with digit tiles. One family of kernels serves `signs` (one digit of one
// bit) and `planes`.
//
// DIGIT TILES. The unsigned code u of a weight (B bits) is cut into digits of 1, 2 or 4 bits, most
// significant first. A digit of width w lies F = 8 / w to a byte: field f is bits w f .. w f + w - 1.
//
//   [T = ceil(N / 16)][S = ceil(K / (128 F))][4 steps q][32 lanes][16 bytes]
//
//   lane l = 4 g + t;  its bytes are words r = 0..3 of bytes i = 0..3;  field f of that byte is
//     row    16 T + g + 8 (r & 1)
//     input  128 F S + 128 f + 32 q + 8 t + 4 (r >> 1) + i
//
//                       field 0         field 1               field F - 1
//   superblock S   | 128 inputs   | 128 inputs   |  ...  | 128 inputs   |      2048 bytes of 16 rows
//   step           | q 0  1  2  3 | q 0  1  2  3 |
//
// So one 16-byte load of a lane is the A operand of F products m16n8k32 (u8 x s8): field f is masked where it
// is, `w & (mask << w f)`, and counts 2^(w f) times its digit. The four steps of a field are 128 inputs in a
// row, which share an activation scale in `fast`. The same words are the A operand of m16n8k256 (b1).
//
// The tiles of a weight's digits follow each other, then comes kTilePadding: kernels walk spans of 1024
// inputs and may read behind the last superblock, where activations are 0. Fields of rows >= N and inputs >=
// K are 0.
//
// SCALES of the device: [16 T][U], row-major. A unit is what shares a scale: the row (U = 1), or 128 or 32
// inputs (U = those of whole spans of 1024); wider groups are repeated. Rows and units that pad
// have scale 0. int16 offsets have the same shape.
//
// VALUES. The first b bits of a code of B, as an unsigned number u, stand for the weight
//   scale (2^(B-b) (2 u - (2^b - 1)) + offset)  =  A scale (u + k + offset / A),   A = 2^(B-b+1), k =
//   -(2^b-1) / 2
// so that a product is  A sum_units scale (sum u x + (k + offset / A) sum x).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/activations/columns.h"
#include "cuda/activations/prologue.h"
#include "cuda/launch.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda {

inline constexpr int kMaxDigits = 8;
inline constexpr int kRowTile = 16;
inline constexpr int kSpanInputs = 1024;
inline constexpr int64_t kSuperblockBytes = 2048;
inline constexpr int64_t kTilePadding = 3 * kSuperblockBytes;  // what a span of four-bit digits may lack
// Largest K of products that keep int32 sums over the whole row: 128 * 255 * K < 2^31 (s8 columns times codes
// of 8 bits), and the largest field sums, 2^4 * 15 * 128 * K / 2 of four-bit digits, are smaller still.
inline constexpr int64_t kMaxWholeInputs = 65536;

// How codes are cut into digits, most significant first.
struct Digits {
  int32_t count;
  int32_t widths[kMaxDigits];

  int32_t bits() const {
    int32_t sum = 0;
    for (int32_t d = 0; d < count; ++d) sum += widths[d];
    return sum;
  }
};
Digits packed_digits(int32_t bits);  // as few digits as there are: 1, 2, 2+1, 4, 4+1, 4+2, 4+2+1, 4+4
Digits plane_digits(int32_t bits);   // one bit each: any prefix can be read

int64_t row_tiles(int64_t out_features);                  // T
int64_t superblocks(int64_t in_features, int32_t width);  // S
int64_t digit_bytes(int64_t out_features, int64_t in_features, int32_t width);
int64_t tile_bytes(int64_t out_features, int64_t in_features, const Digits& digits);  // with padding
// What `unit` a weight's group size is stored with: -1, or a positive multiple of 32.
Unit unit_of(int64_t group_size);
int64_t unit_count(int64_t in_features, Unit unit);  // U

// The weights of one segment. A segment's rows start at a tile of their own.
struct Segment {
  int64_t out_features;
  const uint4* tiles;
  const void* scales;      // null: all ones (unit is row)
  const int16_t* offsets;  // null: all zeros
  const void* out_scales;  // [experts] rows of out_features values; null: none
  int64_t out_scales_stride;
  int32_t experts;  // 0: no out_scales; 1: static; more: mixed by the gates
  int32_t set;      // of the staged activations
};

// Segments that share x; y has their rows side by side as columns.
struct Layer {
  int64_t in_features;
  int32_t planes;  // B, of the stored code
  Digits digits;   // of the stored code
  int32_t active;  // b <= B: a sum of the first digits
  Unit unit;
  lowbit_dtype scales_dtype;
  lowbit_dtype out_scales_dtype;
  int32_t num_segments;
  Segment segments[kMaxSegments];
};

// Blocks of `tiles` row tiles, over all segments.
int64_t row_blocks(const Layer& layer, int64_t tiles);

struct Result {
  void* y;
  lowbit_dtype dtype;
  int64_t stride;
  const void* bias;  // over all columns of y; null: none
  lowbit_dtype bias_dtype;
};

// How warps divide a product. The inputs of a row, spans of 1024, are cut into parts() ranges: `splits`
// blocks have `input_warps` of them each, a power of two, one for a warp. A block has `row_warps` times
// `input_warps` warps (8 at most). Where sums leave the integers inside a row, a result depends in its last
// bit on parts(), and on nothing else here (cuda/bits/meeting.h): there a plan must not choose it by the
// number of tokens.
struct Partition {
  int32_t row_warps;
  int32_t input_warps;
  int32_t splits;

  LOWBIT_HOST_DEVICE int32_t parts() const { return input_warps * splits; }
};

// Which loop of the GEMV a layer takes.
enum class Form : int32_t {
  one,  // a single active digit of 1, 2 or 4 bits
  two,
  four,
  mixed,   // digits of different widths, one pass each
  planes,  // two or more one-bit digits: up to four are put together in registers
};
Form form_of(const Layer& layer);

// Whether sums have to leave the integers inside a row: scales of the weight by 128 or 32 inputs, or of the
// activations by 128.
//
// WHAT A GROUPED PRODUCT WANTS OF THE PROLOGUE (so that its loop needs no case for each kind of activations):
//   scales  one per token and 128 inputs, whatever the kind: `high` and A bits repeat the token's scale
//   sums    multiplied by sums_factor(layer, per_token)
// Products of whole rows want one scale per token, and the totals; sums are not read.
bool is_grouped(const Layer& layer, const ActivationKind& kind);
float sums_factor(int32_t active_bits, int32_t per_token);  // k, or k / 257 where a token is 256 v0 + v1

// y for all tokens, rows of a segment beyond its out_features untouched. All throw lowbit::Error where the
// layer is beyond what a kernel can do; nothing is launched for no tokens.

// Any number of tokens; weights are read once per 16 columns.
void gemv(const Layer& layer, const Columns& x, const Result& result, const Partition& partition,
          Stream stream);
// The same for many tokens: 64 columns share what the weights cost.
void gemm(const Layer& layer, const Columns& x, const Result& result, Stream stream);
// Bit planes on sm_80 to sm_90: active digits of one bit, whole rows. Weights are read once per 16 planes.
void b1_gemv(const Layer& layer, const Planes& x, const Result& result, const Partition& partition,
             Stream stream);
// fp32 on the CUDA cores; sums of FloatColumns are not read.
void exact(const Layer& layer, const FloatColumns& x, const Result& result, Stream stream);
// Tile by tile of x.tile_rows rows (a multiple of kRowTile): the weight expanded to fp16, device.matmul, and
// y from its sums.
void matmul(const Layer& layer, const HalfColumns& x, const Result& result, const lowbit_cuda_device& device,
            Stream stream);

// Canonical planes [B][N][ceil(K / 8)] (formats/bits.py) to tiles and back. `tiles` has tile_bytes(...)
// bytes.
void repack_tiles(const uint8_t* planes, int64_t out_features, int64_t in_features, const Digits& digits,
                  uint4* tiles, Stream stream);
void unpack_tiles(const uint4* tiles, int64_t out_features, int64_t in_features, const Digits& digits,
                  uint8_t* planes, Stream stream);
// Canonical [N][ceil(K / group_size)] of 2-byte (fp16, bf16, int16 offsets) or 4-byte values to [16 T][U].
void repack_groups(const void* values, int64_t element_bytes, int64_t out_features, int64_t in_features,
                   int64_t group_size, void* units, Stream stream);
void unpack_groups(const void* units, int64_t element_bytes, int64_t out_features, int64_t in_features,
                   int64_t group_size, void* values, Stream stream);

}  // namespace lowbit::cuda
