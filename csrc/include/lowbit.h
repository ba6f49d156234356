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
#endif

typedef enum lowbit_status {
  LOWBIT_OK = 0,
  LOWBIT_INVALID_ARGUMENT = 1,
  LOWBIT_UNSUPPORTED = 2,
  LOWBIT_OUT_OF_MEMORY = 3
} lowbit_status;

typedef enum lowbit_dtype { LOWBIT_F32 = 0, LOWBIT_F16 = 1, LOWBIT_BF16 = 2 } lowbit_dtype;

/* fast:  activations int8, one scale per token and 128 inputs, exact integer products.
 * high:  activations in 16-bit fixed point, one scale per token, exact integer products.
 * exact: fp32. */
typedef enum lowbit_precision { LOWBIT_FAST = 0, LOWBIT_HIGH = 1, LOWBIT_EXACT = 2 } lowbit_precision;

typedef enum lowbit_isa {
  LOWBIT_ISA_SCALAR = 0,
  LOWBIT_ISA_AVX2 = 1,
  LOWBIT_ISA_AVX_VNNI = 2,
  LOWBIT_ISA_AVX512 = 3,
  LOWBIT_ISA_NEON = 4
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

LOWBIT_API const char* lowbit_version(void);
LOWBIT_API const char* lowbit_last_error(void);

/* Threads used by the next calls from any thread; 0 = one per available core. */
LOWBIT_API void lowbit_set_num_threads(int32_t threads);
LOWBIT_API int32_t lowbit_get_num_threads(void);

/* Instruction set the kernels run with: the best of this machine, or LOWBIT_CPU_ISA of the environment
 * (scalar, avx2, avxvnni, avx512, neon) read at first use. Forcing one the machine lacks is an error. */
LOWBIT_API int32_t lowbit_isa_available(lowbit_isa isa);
LOWBIT_API lowbit_status lowbit_get_isa(lowbit_isa* isa);
LOWBIT_API lowbit_status lowbit_set_isa(lowbit_isa isa);
LOWBIT_API const char* lowbit_isa_name(lowbit_isa isa);

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

#ifdef __cplusplus
}
#endif
#endif /* LOWBIT_H_ */
