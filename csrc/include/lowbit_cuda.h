/* lowbit on NVIDIA GPUs: plain C interface of the CUDA kernels. Needs compute capability 8.0 or newer.
 *
 * Every function returns a lowbit_status; on failure lowbit_cuda_last_error() gives one sentence for the
 * calling thread and nothing was launched, unless the sentence says that a launch failed. Nothing here
 * allocates device memory or waits for the GPU, so all products may be captured in CUDA graphs.
 *
 * Pointers to data are device pointers; structures are read on the host, during the call only. `stream` is a
 * cudaStream_t (null: the default stream) of the current device. Arguments are checked on the host: values
 * behind device pointers, such as NaN scales, are not.
 *
 * N = out_features, K = in_features, M = tokens (rows of x).
 */
#ifndef LOWBIT_CUDA_H_
#define LOWBIT_CUDA_H_

#include "lowbit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* c = a b^T: a [a_rows][inputs] and b [b_rows][inputs] in fp16, c [a_rows][b_rows] and its sums in fp32; rows
 * without gaps, inputs a multiple of 64, all three aligned as the workspace is. To be queued on `stream`. The
 * operands fill the range of fp16: sums in fp16 would overflow. */
typedef struct lowbit_cuda_product {
  int64_t a_rows, b_rows, inputs;
  const void* a;
  const void* b;
  float* c;
  void* stream;
} lowbit_cuda_product;

/* Up to so many tokens no product is asked for. */
#define LOWBIT_CUDA_MATMUL_TOKENS 256

/* Returns LOWBIT_OK when the product is queued. */
typedef lowbit_status (*lowbit_cuda_matmul)(void* context, const lowbit_cuda_product* product);

/* What kernels are chosen for: a GPU, and a matrix product that the caller brings, such as cuBLAS. */
typedef struct lowbit_cuda_device {
  int32_t architecture;      /* 10 * major + minor compute capability: 80, 86, 89, 90, 100, 120, ... */
  int32_t multiprocessors;   /* 1 or more */
  lowbit_cuda_matmul matmul; /* for many tokens, see lowbit_cuda_signs_linear; NULL: none */
  void* matmul_context;      /* its first argument */
} lowbit_cuda_device;

LOWBIT_API const char* lowbit_cuda_last_error(void);

/* Number of GPUs; 0, and no failure, on a machine with none or without a driver. */
LOWBIT_API lowbit_status lowbit_cuda_device_count(int32_t* count);
/* The GPU alone: matmul is NULL. */
LOWBIT_API lowbit_status lowbit_cuda_get_device(int32_t ordinal, lowbit_cuda_device* device);

/* ---- Bits: families signs and planes
 * ---------------------------------------------------------------------------
 *
 * Packed bits in the layout of the kernels. The code of a weight, B bits, is cut into digits of 1, 2 or 4
 * bits, most significant first; a call may use the first active_bits of them, cut where a digit ends:
 *
 *   digits 1 1 1 1    any active_bits            digits 4    fewest instructions per weight
 *
 * The first b = active_bits of a code stand for the value v = sum_(i < b) (2 bit_i - 1) 2^(b - 1 - i), and a
 * weight is scales * (2^(B - b) v + offsets).
 *
 *   tiles             made by lowbit_cuda_repack_bits
 *   scales, offsets   made by lowbit_cuda_repack_scales and _offsets; NULL: all ones, all zeros
 */
#define LOWBIT_CUDA_MAX_DIGITS 8

typedef struct lowbit_cuda_bits {
  int64_t out_features, in_features; /* K up to 65,536 */
  int32_t bits;                      /* B, 1 to 8: the sum of the digits */
  int32_t num_digits;
  int32_t digits[LOWBIT_CUDA_MAX_DIGITS]; /* 1, 2 or 4 each */
  int64_t group_size; /* -1: the whole row; else a positive multiple of 32; without scales unused */
  const void* tiles;
  const void* scales;
  lowbit_dtype scales_dtype;
  const int16_t* offsets;
} lowbit_cuda_bits;

/* One binarised layer of a fused call, as lowbit_signs. */
typedef struct lowbit_cuda_signs {
  lowbit_cuda_bits bits; /* bits == 1 */
  int32_t experts;       /* 0 to 32 */
  const void* router;
  const void* in_scales;
  const void* out_scales;
  int64_t out_scales_stride;
  lowbit_dtype dtype; /* of router, in_scales and out_scales */
} lowbit_cuda_signs;

/* Device memory that the members of `weight` need; its pointers are not looked at. scales_count is in
 * elements of scales_dtype, and the same for offsets in int16. */
LOWBIT_API lowbit_status lowbit_cuda_bits_sizes(const lowbit_cuda_bits* weight, size_t* tiles_bytes,
                                                size_t* scales_count);

/* Canonical tensors into the layout above, and back without loss. The members of `weight` that describe it
 * count, its pointers do not. planes [B][N][ceil(K / 8)]   input k is bit k % 8 of byte k / 8, plane 0 the
 * most significant scales [N][G] of scales_dtype, offsets [N][G] int16, G = ceil(K / group_size), or 1 for
 * whole rows */
LOWBIT_API lowbit_status lowbit_cuda_repack_bits(const lowbit_cuda_bits* weight, const uint8_t* planes,
                                                 void* tiles, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_repack_scales(const lowbit_cuda_bits* weight, const void* scales,
                                                   void* repacked, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_repack_offsets(const lowbit_cuda_bits* weight, const int16_t* offsets,
                                                    int16_t* repacked, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_restore_bits(const lowbit_cuda_bits* weight, const void* tiles,
                                                  uint8_t* planes, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_restore_scales(const lowbit_cuda_bits* weight, const void* repacked,
                                                    void* scales, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_restore_offsets(const lowbit_cuda_bits* weight, const int16_t* repacked,
                                                     int16_t* offsets, void* stream);

/* y[:, n of segment s] = (((x * in_mix_s) B_s^T) * out_mix_s) + bias, as lowbit_signs_linear. `workspace` is
 * device memory of at least lowbit_cuda_signs_workspace bytes, aligned to 16; calls that may run at the same
 * time need one each.
 *
 * Products of more than 256 tokens at `high` are left to device->matmul, where it is there: tiles of the
 * weight's rows are expanded to fp16 in the workspace, one after the other in the same memory, and multiplied
 * by activations in fp16. Powers of two keep both in its range; scales of whole rows stay out of it. */
LOWBIT_API lowbit_status lowbit_cuda_signs_workspace(const lowbit_cuda_device* device,
                                                     const lowbit_cuda_signs* segments, int32_t num_segments,
                                                     int64_t tokens, lowbit_precision precision,
                                                     size_t* bytes);
LOWBIT_API lowbit_status lowbit_cuda_signs_linear(const lowbit_cuda_device* device,
                                                  const lowbit_cuda_signs* segments, int32_t num_segments,
                                                  const lowbit_input* x, const lowbit_vector* bias,
                                                  lowbit_precision precision, const lowbit_output* y,
                                                  void* workspace, size_t workspace_bytes, void* stream);

/* y = x W^T + bias with W from the first active_bits of the codes, as lowbit_planes_linear. */
LOWBIT_API lowbit_status lowbit_cuda_planes_workspace(const lowbit_cuda_device* device,
                                                      const lowbit_cuda_bits* weight, int32_t active_bits,
                                                      int64_t tokens, int32_t activation_bits,
                                                      lowbit_precision precision, size_t* bytes);
LOWBIT_API lowbit_status lowbit_cuda_planes_linear(const lowbit_cuda_device* device,
                                                   const lowbit_cuda_bits* weight, int32_t active_bits,
                                                   const lowbit_input* x, int32_t activation_bits,
                                                   const lowbit_vector* bias, lowbit_precision precision,
                                                   const lowbit_output* y, void* workspace,
                                                   size_t workspace_bytes, void* stream);

/* Which kernel these products would run for so many tokens, and why not the others: one JSON object, zero
 * terminated. Planes are one segment without experts; active_bits counts for every segment. `length` receives
 * what the text needs, with its zero; where that exceeds `capacity`, nothing else is written and the call
 * fails.
 *
 *   {"kernel": "imma_gemv", "reason": "...", "launches": 2, "segments": 1, "tokens": 1, "columns": 2,
 *    "passes": 1, "row_warps": 2, "input_warps": 4, "splits": 1, "blocks": 128, "shared_bytes": 32768,
 *    "bytes": {"weight": .., "scales": .., "workspace": ..}, "rejected": [{"kernel": "b1_gemv", "reason":
 * "..."},
 *    ...]}
 *
 * kernel: imma_gemv or b1_gemv (both with warps, blocks, splits - the blocks that share rows and divide their
 * inputs - and the dynamic shared memory of a block), gemm, fp32 or matmul (with "tile_rows", the rows that
 * are expanded at a time; launches count the caller's products). bytes: what a product
 * reads of the weight and its scales, as often as it reads them, and the memory it needs. Where one launch
 * cannot serve all segments, the object is that of the first ones, so many as "segments" says. */
LOWBIT_API lowbit_status lowbit_cuda_explain(const lowbit_cuda_device* device,
                                             const lowbit_cuda_signs* segments, int32_t num_segments,
                                             int32_t active_bits, int64_t tokens, int32_t activation_bits,
                                             lowbit_precision precision, char* text, size_t capacity,
                                             size_t* length);

/* What a product sees of x, for references and tests: the launch that prepares activations, alone. The result
 * lies in `workspace` (lowbit_cuda_signs_workspace or _planes_workspace bytes for the same arguments),
 * `staged` says where. For up to 4,096 tokens, and segments that one launch can serve. Kp = padded_inputs. A
 * `set` is one prepared input: one for each segment where there are experts, else one for all.
 *
 * - columns: codes int8 [sets][tiles of 8 columns, M per_token in all][Kp / 128][2 h][8 columns][4 t][2 i][8
 * j] are input 128 c + 32 (2 h + i) + 8 t + j of a column, c being the group of 128. per_token == 2: the
 * value is 256 first + second. scale_groups > 1: scales are [sets][tiles of 8 tokens][scale_groups / 4][8
 * tokens][4], and sums, units of a token in the same order, are a constant of the layer times the sums of
 * scale * value. Else scales [sets][M], and totals int32 [sets][M per_token] are sums of codes. units == 1:
 * sums [sets][M].
 * - planes: codes uint32 [sets][M per_token][Kp / 32]: bit 8 i + f of word 32 s + 8 q + 2 t + h of a plane is
 *   input 1024 s + 128 f + 32 q + 8 t + 4 h + i (i < 4, h < 2, f < 8). scales [sets][M]; totals int64
 * [sets][M] are sums of values. activation_bits == 0: 16 planes, the value in two's complement from bit 0 on;
 * A: planes of u, bit 0 first, and one with a bit for every input; the value is 2 u - (2^A - 1).
 * - floats: codes fp32 [sets][M][Kp]; no scales.
 * - halves: codes fp16 [sets][M][padded_inputs], here K rounded up to 64; scales [sets][M].
 *
 * And gates [sets][M][experts]. */
typedef enum lowbit_cuda_form LOWBIT_ENUM {
  LOWBIT_CUDA_COLUMNS = 0,
  LOWBIT_CUDA_PLANES = 1,
  LOWBIT_CUDA_FLOATS = 2,
  LOWBIT_CUDA_HALVES = 3
} lowbit_cuda_form;

typedef struct lowbit_cuda_staged {
  lowbit_cuda_form form;
  int32_t sets, per_token, scale_groups, units, experts;
  int64_t tokens, padded_inputs;
  const void* codes;
  const float* scales;
  const float* sums;
  const void* totals;
  const float* gates;
} lowbit_cuda_staged;

LOWBIT_API lowbit_status lowbit_cuda_stage(const lowbit_cuda_device* device,
                                           const lowbit_cuda_signs* segments, int32_t num_segments,
                                           int32_t active_bits, const lowbit_input* x,
                                           int32_t activation_bits, lowbit_precision precision,
                                           lowbit_cuda_staged* staged, void* workspace,
                                           size_t workspace_bytes, void* stream);

/* ---- Codebooks
 * --------------------------------------------------------------------------------------------------
 *
 * Labels, offsets and columns are indices: they must be in range, and are not checked here. */

/* Scalar tables: members as lowbit_codebook_scalar, on the device, but for `packed`: codes (and, with 2 to 4
 * bits, tables in fixed point) in the layout of the kernels. */
typedef struct lowbit_cuda_codebook_scalar {
  int64_t out_features, in_features;
  int32_t bits;       /* 1 to 8 */
  const void* packed; /* made by lowbit_cuda_repack_codebook_scalar, aligned to 16 */
  const void* tables; /* [N][2^bits] */
  lowbit_dtype tables_dtype;
  const int32_t* outlier_offsets; /* NULL: no outliers */
  const int32_t* outlier_columns;
  const void* outlier_values;
  lowbit_dtype outlier_values_dtype;
} lowbit_cuda_codebook_scalar;

LOWBIT_API lowbit_status lowbit_cuda_codebook_scalar_size(const lowbit_cuda_codebook_scalar* weight,
                                                          size_t* packed_bytes);
/* `planes` [bits][N][ceil(K / 8)] canonical. Reads the tables as well. */
LOWBIT_API lowbit_status lowbit_cuda_repack_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                            const uint8_t* planes, void* packed,
                                                            void* stream);
LOWBIT_API lowbit_status lowbit_cuda_restore_codebook_scalar(const lowbit_cuda_codebook_scalar* weight,
                                                             uint8_t* planes, void* stream);

/* y = x W^T + bias. fast and high with 2 to 4 bits: exact integer products of the quantised activations with
 * table entries in fixed point, which are off by at most amax / 64512 of their row; other bits: fp32 products
 * of the quantised activations with the tables. exact: fp32. Outliers multiply the same activations as the
 * tables do. More than 256 tokens at `high`: device->matmul, as lowbit_cuda_signs_linear, with outliers in
 * the expanded rows. */
LOWBIT_API lowbit_status lowbit_cuda_codebook_scalar_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_scalar* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes);
LOWBIT_API lowbit_status lowbit_cuda_codebook_scalar_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_scalar* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream);

/* Shared channels: members as lowbit_codebook_channel, on the device and in the canonical layout. axis 1
 * needs the inputs in the order of their labels besides. */
typedef struct lowbit_cuda_codebook_channel {
  lowbit_codebook_channel canonical;
  const int32_t* order; /* axis 1: made by lowbit_cuda_order_codebook_channel */
} lowbit_cuda_codebook_channel;

/* order [clusters + 1 + K], axis 1 only. */
LOWBIT_API lowbit_status lowbit_cuda_order_codebook_channel(const lowbit_codebook_channel* weight,
                                                            int32_t* order, void* stream);

/* y = x W^T + bias, fp32 sums of fp32 products at every precision. */
LOWBIT_API lowbit_status lowbit_cuda_codebook_channel_workspace(const lowbit_cuda_device* device,
                                                                const lowbit_cuda_codebook_channel* weight,
                                                                int64_t tokens, lowbit_precision precision,
                                                                size_t* bytes);
LOWBIT_API lowbit_status lowbit_cuda_codebook_channel_linear(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_channel* weight,
                                                             const lowbit_input* x, const lowbit_vector* bias,
                                                             lowbit_precision precision,
                                                             const lowbit_output* y, void* workspace,
                                                             size_t workspace_bytes, void* stream);

/* Additive codebooks of vectors: members as lowbit_codebook_vector, on the device, but for `packed`: codes
 * (and codebooks in fp16) in the layout of the kernels. */
typedef struct lowbit_cuda_codebook_vector {
  int64_t out_features, in_features;
  int32_t num_codebooks;
  int32_t vector_size;   /* 1 to 64 */
  const void* packed;    /* made by lowbit_cuda_repack_codebook_vector, aligned to 16 */
  const void* codebooks; /* [codebooks][256][vector_size] */
  const void* out_scales;
  lowbit_dtype dtype; /* of codebooks and out_scales */
} lowbit_cuda_codebook_vector;

LOWBIT_API lowbit_status lowbit_cuda_codebook_vector_size(const lowbit_cuda_codebook_vector* weight,
                                                          size_t* packed_bytes);
/* `codes` [codebooks][N][ceil(K / vector_size)] canonical. Reads the codebooks as well. */
LOWBIT_API lowbit_status lowbit_cuda_repack_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                            const uint8_t* codes, void* packed, void* stream);
LOWBIT_API lowbit_status lowbit_cuda_restore_codebook_vector(const lowbit_cuda_codebook_vector* weight,
                                                             uint8_t* codes, void* stream);

/* y = x W^T + bias. fast and high, where vector_size is a multiple of 4 and the codebooks fit in shared
 * memory: fp16 products with fp32 sums, of x as a sum of two fp16 numbers and codebooks rounded to fp16 at
 * one power of two; more than 256 tokens, x as one of them: device->matmul, as lowbit_cuda_signs_linear.
 * exact, and all others: fp32. */
LOWBIT_API lowbit_status lowbit_cuda_codebook_vector_workspace(const lowbit_cuda_device* device,
                                                               const lowbit_cuda_codebook_vector* weight,
                                                               int64_t tokens, lowbit_precision precision,
                                                               size_t* bytes);
LOWBIT_API lowbit_status lowbit_cuda_codebook_vector_linear(const lowbit_cuda_device* device,
                                                            const lowbit_cuda_codebook_vector* weight,
                                                            const lowbit_input* x, const lowbit_vector* bias,
                                                            lowbit_precision precision,
                                                            const lowbit_output* y, void* workspace,
                                                            size_t workspace_bytes, void* stream);

/* Which kernel these products would run for so many tokens of that dtype, and why not the others: the JSON
 * object of lowbit_cuda_explain, with the kernels
 *
 *   scalar   selectors, fp32 or matmul      channel   gather (axis 0) or label_sums (axis 1)
 *   vector   tensor, fp32 or matmul
 *
 * input_warps warps of a block share rows and divide their inputs. Channel products have a second launch, of
 * second_blocks blocks with second_input_warps such warps; tensor holds "copies" of the codebooks in shared
 * memory. "scales" counts tables, codebooks and labels; "splits" is 1 but for vectors in fp32, where so many
 * blocks divide the inputs. Outliers are not counted. Data of the weight is not looked at; what
 * lowbit_cuda_codebook_*_workspace checks is checked. */
LOWBIT_API lowbit_status lowbit_cuda_codebook_scalar_explain(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_scalar* weight,
                                                             int64_t tokens, lowbit_precision precision,
                                                             lowbit_dtype activations, char* text,
                                                             size_t capacity, size_t* length);
LOWBIT_API lowbit_status lowbit_cuda_codebook_channel_explain(const lowbit_cuda_device* device,
                                                              const lowbit_cuda_codebook_channel* weight,
                                                              int64_t tokens, lowbit_precision precision,
                                                              lowbit_dtype activations, char* text,
                                                              size_t capacity, size_t* length);
LOWBIT_API lowbit_status lowbit_cuda_codebook_vector_explain(const lowbit_cuda_device* device,
                                                             const lowbit_cuda_codebook_vector* weight,
                                                             int64_t tokens, lowbit_precision precision,
                                                             lowbit_dtype activations, char* text,
                                                             size_t capacity, size_t* length);

#ifdef __cplusplus
}
#endif
#endif /* LOWBIT_CUDA_H_ */
