/* lowbit: linear layers 1 to 8 bits wide. Plain C interface of the native CPU kernels.
 *
 * Every function returns a lowbit_status; on failure lowbit_last_error() gives one sentence for the calling
 * thread and nothing was written. All pointers are borrowed for the duration of the call only. No function
 * allocates memory that the caller must free, and none throws.
 *
 * N = out_features, K = in_features, M = tokens (rows of x).
 */
#ifndef LOWBIT_H_
#define LOWBIT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define LOWBIT_API __declspec(dllexport)
#else
#define LOWBIT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#define LOWBIT_ENUM : int32_t /* so that a wrong number in one is an error to report, not undefined behaviour */
#else
#define LOWBIT_ENUM
#endif

typedef enum lowbit_status LOWBIT_ENUM {
  LOWBIT_OK = 0,
  LOWBIT_INVALID_ARGUMENT = 1,
  LOWBIT_UNSUPPORTED = 2,
  LOWBIT_OUT_OF_MEMORY = 3,
  LOWBIT_DEVICE_FAILED = 4 /* a GPU refused a launch or reported an error */
} lowbit_status;

typedef enum lowbit_dtype LOWBIT_ENUM { LOWBIT_F32 = 0, LOWBIT_F16 = 1, LOWBIT_BF16 = 2 } lowbit_dtype;

/* fast:  activations int8, one scale per token and 128 inputs, exact integer products.
 * high:  activations in 16-bit fixed point, one scale per token, exact integer products.
 * exact: fp32. */
typedef enum lowbit_precision LOWBIT_ENUM {
  LOWBIT_FAST = 0,
  LOWBIT_HIGH = 1,
  LOWBIT_EXACT = 2
} lowbit_precision;

typedef enum lowbit_isa LOWBIT_ENUM {
  LOWBIT_ISA_SCALAR = 0,
  LOWBIT_ISA_AVX2 = 1,
  LOWBIT_ISA_AVX_VNNI = 2,
  LOWBIT_ISA_AVX512 = 3,
  LOWBIT_ISA_NEON = 4,
  LOWBIT_ISA_AMX = 5 /* AVX-512 with tiles */
} lowbit_isa;

#define LOWBIT_TILE_ROWS 64    /* output rows of a tile */
#define LOWBIT_BLOCK_INPUTS 32 /* inputs of a block: one little-endian dword of bits per row */

/* Activations, [rows][cols], element (m, k) at data + m * row_stride + k (strides in elements). */
typedef struct lowbit_input {
  const void* data;
  lowbit_dtype dtype;
  int64_t rows, cols, row_stride;
} lowbit_input;

/* Result, [rows][cols], same addressing. */
typedef struct lowbit_output {
  void* data;
  lowbit_dtype dtype;
  int64_t rows, cols, row_stride;
} lowbit_output;

/* One-dimensional table of `size` floating point values; data == NULL means absent. */
typedef struct lowbit_vector {
  const void* data;
  lowbit_dtype dtype;
  int64_t size;
} lowbit_vector;

/* Packed bits in tile layout (families signs and planes). With T = ceil(N / 64), KB = ceil(K / 32),
 * G = group_size == -1 ? 1 : ceil(K / group_size):
 *
 *   tiles   [T][planes][KB][64 rows][4 bytes]   bit i of a row's little-endian dword b is input 32 b + i
 *   scales  [T][G][64]                          NULL: all ones
 *   offsets [T][G][64] int16, in code units     NULL: all zeros
 *
 * Plane 0 is the most significant. A B-bit code has the value v = sum_p 2^(B-1-p) (2 bit_p - 1), and a weight
 * is scales * (v + offsets). Padding bits are 0, padding rows have scale 0. */
typedef struct lowbit_bits {
  int64_t out_features, in_features;
  int32_t planes;
  const uint8_t* tiles;
  int64_t group_size; /* -1: the whole row; else a positive multiple of 32 */
  const void* scales;
  lowbit_dtype scales_dtype;
  const int16_t* offsets;
} lowbit_bits;

/* One binarised layer of a fused call. experts == 0: no input and output scales. experts == 1: static scales
 * (OneBit), no router. experts > 1: BinaryMoS, gates = softmax(x router^T).
 *   router, in_scales [experts][K];  out_scales [experts] rows of N values, out_scales_stride elements apart
 */
typedef struct lowbit_signs {
  lowbit_bits bits; /* planes == 1 */
  int32_t experts;
  const void* router;
  const void* in_scales;
  const void* out_scales;
  int64_t out_scales_stride;
  lowbit_dtype dtype; /* of router, in_scales and out_scales */
} lowbit_signs;

/* Codebook over channels: rows (axis 0) or columns (axis 1) of W are copies of `clusters` centroids, plus an
 * optional low rank part: W = gathered centroids + low_rank_out low_rank_in. (SWSC, arXiv 2501.08631)
 *   axis 0  weight [clusters][K], labels [N]:  row n is centroid labels[n]
 *   axis 1  weight [N][clusters], labels [K]:  column k is centroid labels[k]
 *   low_rank_out [N][rank], low_rank_in [rank][K]; rank 0: absent
 * Every label must be below `clusters`. */
typedef struct lowbit_codebook_channel {
  int64_t out_features, in_features;
  int32_t axis; /* 0: output channels, 1: input channels */
  int64_t clusters;
  const void* weight;
  const void* labels;
  int32_t label_bytes; /* 1, 2 or 4: unsigned little-endian labels of that width */
  int64_t rank;
  const void* low_rank_out;
  const void* low_rank_in;
  lowbit_dtype dtype; /* of weight, low_rank_out and low_rank_in */
} lowbit_codebook_channel;

/* Codebook of scalars, one table a row: w[n][k] = tables[n][code(n, k)] + outlier(n, k). (SqueezeLLM,
 * arXiv 2306.07629)
 *   weight [bits][N][ceil(K / 8)]  canonical planes: input k is bit k % 8 of byte k / 8, plane 0 holds the
 *                                  most significant bits of the codes
 *   tables [N][2^bits]             finite
 * Outliers are a sparse correction in compressed rows, added to the table's value at their position:
 *   outlier_offsets [N + 1], outlier_columns and outlier_values [outlier_offsets[N]];  NULL: none
 * Offsets must ascend from 0 and columns must be below K. */
typedef struct lowbit_codebook_scalar {
  int64_t out_features, in_features;
  int32_t bits; /* 1 to 8 */
  const uint8_t* weight;
  const void* tables;
  lowbit_dtype tables_dtype;
  const int32_t* outlier_offsets;
  const int32_t* outlier_columns;
  const void* outlier_values;
  lowbit_dtype outlier_values_dtype;
} lowbit_codebook_scalar;

/* Additive codebooks of vectors: v inputs of a row are the sum of one vector of each codebook, scaled by row:
 *   w[n][v j + i] = out_scales[n] * sum_c codebooks[c][codes[c][n][j]][i]     (AQLM, arXiv 2401.06118)
 *   codes [codebooks][N][ceil(K / v)] uint8, codebooks [codebooks][256][v], out_scales [N] */
typedef struct lowbit_codebook_vector {
  int64_t out_features, in_features;
  int32_t num_codebooks;
  int32_t vector_size; /* v, 1 to 64 */
  const uint8_t* codes;
  const void* codebooks;
  const void* out_scales;
  lowbit_dtype dtype; /* of codebooks and out_scales */
} lowbit_codebook_vector;

LOWBIT_API const char* lowbit_version(void);
LOWBIT_API const char* lowbit_last_error(void);

/* Threads used by the next calls from any thread; 0 = one per available core. */
LOWBIT_API void lowbit_set_num_threads(int32_t threads);
LOWBIT_API int32_t lowbit_get_num_threads(void);

/* A host with threads of its own lends them: it calls body(context, chunk) once for every chunk of [0,
 * chunks), side by side where it can, and returns when all have returned. Two pools on the same cores would
 * take them from each other. Holds for the next calls of the calling thread; NULL: lowbit's own threads. */
typedef void (*lowbit_parallel_for)(int32_t chunks, void (*body)(void* context, int32_t chunk),
                                    void* context);
LOWBIT_API void lowbit_set_parallel_for(lowbit_parallel_for host);

/* Instruction set the kernels run with: the best of this machine, or LOWBIT_CPU_ISA of the environment
 * (scalar, avx2, avxvnni, avx512, amx, neon) read at first use. Forcing one the machine lacks is an error.
 * Where the choice is automatic and the operating system refuses the process the registers of the best one,
 * the next serves, and lowbit_isa_refusal() says why; NULL otherwise. While amx is in force Linux refuses the
 * process's threads alternate signal stacks that are too small for tiles (of 8 KB: sigaltstack fails). */
LOWBIT_API int32_t lowbit_isa_available(lowbit_isa isa);
LOWBIT_API lowbit_status lowbit_get_isa(lowbit_isa* isa);
LOWBIT_API lowbit_status lowbit_set_isa(lowbit_isa isa);
LOWBIT_API const char* lowbit_isa_name(lowbit_isa isa);
LOWBIT_API const char* lowbit_isa_refusal(void);

/* y[:, n of segment s] = (((x * in_mix_s) B_s^T) * out_mix_s) + bias. The segments share x; y has the sum of
 * their out_features as columns, in order, and so has bias. (BinaryMoS, arXiv 2406.12311) */
LOWBIT_API lowbit_status lowbit_signs_linear(const lowbit_signs* segments, int32_t num_segments,
                                             const lowbit_input* x, const lowbit_vector* bias,
                                             lowbit_precision precision, const lowbit_output* y);

/* y = x W^T + bias with W from the first active_bits planes. activation_bits 1..8: activations are quantised
 * per token to bipolar codes of that width and the product is exact in integers; 0: `precision` decides. */
LOWBIT_API lowbit_status lowbit_planes_linear(const lowbit_bits* weight, int32_t active_bits,
                                              const lowbit_input* x, int32_t activation_bits,
                                              const lowbit_vector* bias, lowbit_precision precision,
                                              const lowbit_output* y);

/* Columns of activations from which the instruction set in force multiplies the first active_bits planes, of
 * signs or planes, in tile registers; 0: never. A token is one column, at LOWBIT_HIGH or with 8-bit
 * activations two. amx computes everything else as avx512 does. */
LOWBIT_API int64_t lowbit_tile_columns(int32_t active_bits);

/* Layers that share x, each with tensors of its own, in one call: the activations are quantised once, and
 * small layers keep all threads busy. y has the sum of their out_features as columns, in order. The layers
 * are signs, or planes with experts == 0, of which the first active_bits planes are read; biases has one for
 * each of them, or is NULL. activation_bits as above; 0 where a layer has experts. */
LOWBIT_API lowbit_status lowbit_siblings_linear(const lowbit_signs* layers, const lowbit_vector* biases,
                                                int32_t num_layers, int32_t active_bits,
                                                const lowbit_input* x, int32_t activation_bits,
                                                lowbit_precision precision, const lowbit_output* y);

/* y = x W^T + bias. The weight is never expanded: axis 0 gathers products with the centroids, axis 1 first
 * sums x over the inputs of each label. fp32 sums at every precision; with AMX at fast, 48 tokens or more of
 * 16 bits meet centroids of 16 bits of axis 0 in tiles, whose products are exact. A row's bits are the same
 * in all batches below 48 tokens, and in all from there on. */
LOWBIT_API lowbit_status lowbit_codebook_channel_linear(const lowbit_codebook_channel* weight,
                                                        const lowbit_input* x, const lowbit_vector* bias,
                                                        lowbit_precision precision, const lowbit_output* y);

/* fast: int8 activations times table entries in fixed point of 2^-20 of the row's largest entry or finer,
 * exact integer products; fp32 entries up to 32 inputs. high and exact: fp32. 48 tokens or more expand rows a
 * few at a time: at high and exact those of 6 to 8 bits with AVX-512, of any with AVX2; at fast those of 5 to
 * 8 bits with AVX2, and with AMX all of 16-bit tables, in tiles whose fp32 sums take each group's scale
 * (entries up to 2e34). Outliers multiply the same activations as the tables do. */
LOWBIT_API lowbit_status lowbit_codebook_scalar_linear(const lowbit_codebook_scalar* weight,
                                                       const lowbit_input* x, const lowbit_vector* bias,
                                                       lowbit_precision precision, const lowbit_output* y);

/* The products of every codebook vector with its inputs are formed once per token, then summed by code.
 * fast: where the instruction set has look-ups for it (AVX-512), products in fixed point of 2^-20 of their
 * bound and exact integer sums; activations are not rounded. high and exact: fp32. At every precision 48
 * tokens or more expand rows a few at a time and sum in fp32, where that takes less: with many codes or few
 * rows; with AMX at fast, activations of 16 bits meet rows of 16-bit codebooks in tiles: exact products for
 * one codebook, up to 2^-17 of an entry less for sums of several. A row's bits are the same in all batches
 * below 48 tokens, and in all from there on. */
LOWBIT_API lowbit_status lowbit_codebook_vector_linear(const lowbit_codebook_vector* weight,
                                                       const lowbit_input* x, const lowbit_vector* bias,
                                                       lowbit_precision precision, const lowbit_output* y);

/* Attention of one token a sequence over keys and values as they lie in a cache; for engines of which nothing
 * but attention stands between the linear layers.
 *   out[b][h] = sum_p softmax_p(cap(scale * query[b][h] . keys[b][h * groups / heads][p])) values[..][p]
 * over the p with seen[b][p] != 0; NaN where there is none. cap(s) = softcap * tanh(s / softcap), or s where
 * softcap is 0. Sums are fp32. Strides are in elements; the last dimension has none. Positions that are not
 * seen are not read, so that a sliding window costs what it holds. */
typedef struct lowbit_attention_call {
  int64_t batch;
  int64_t heads, groups; /* of the query; of keys and values: a divisor of heads */
  int64_t length;
  int64_t width, value_width; /* of a key, of a value */
  lowbit_dtype dtype;         /* of query, keys, values and out */
  const void* query;          /* [batch][heads][width] */
  int64_t query_stride[2];    /* of batch, head */
  const void* keys;           /* [batch][groups][length][width] */
  int64_t keys_stride[3];     /* of batch, group, position */
  const void* values;         /* [batch][groups][length][value_width] */
  int64_t values_stride[3];
  const uint8_t* seen; /* [batch][length]; NULL: all are */
  int64_t seen_stride; /* of batch */
  float scale, softcap;
  void* out; /* [batch][heads][value_width], without gaps */
} lowbit_attention_call;

LOWBIT_API lowbit_status lowbit_attention(const lowbit_attention_call* call);

/* What the products above see of x, for references and tests: the same code computes it.
 *
 * Codes (activation_bits 0: precision fast or high) and their scales; x ~ codes * scales. A token with a
 * non-finite value has codes 0 and scales NaN. codes [rows][cols];  scales [rows][ceil(cols / 128)] for fast,
 * [rows] otherwise */
LOWBIT_API lowbit_status lowbit_quantize_activations(const lowbit_input* x, int32_t activation_bits,
                                                     lowbit_precision precision, int32_t* codes,
                                                     float* scales);

/* Gates and scaled activations of one segment, before quantisation: z = x * (gates in_scales).
 *   gates [rows][experts], untouched when experts == 0;  z [rows][cols] */
LOWBIT_API lowbit_status lowbit_signs_prologue(const lowbit_signs* segment, const lowbit_input* x,
                                               float* gates, float* z);

/* One piece of memory. */
typedef struct lowbit_span {
  const void* data;
  int64_t bytes;
} lowbit_span;

/* Reads every byte of the spans once, on the threads the kernels use, and does nothing with it: the floor
 * that benchmarks hold the kernels against. *sum becomes the exclusive or of all 8-byte words (of single
 * bytes in the last incomplete 64 of a span). accumulators    1, 4 or 8 independent chains of 16-byte loads
 *   prefetch_bytes  how far ahead of the loads lines are asked for; 0: left to the hardware */
LOWBIT_API lowbit_status lowbit_read(const lowbit_span* spans, int32_t count, int32_t accumulators,
                                     int64_t prefetch_bytes, uint64_t* sum);

#ifdef __cplusplus
}
#endif
#endif /* LOWBIT_H_ */
