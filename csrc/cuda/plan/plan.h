// Which kernel a product runs with, and how its warps divide the weight. Pure functions of shapes and of the
// GPU's description: nothing is measured, no pointer looked at.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "cuda/bits/bits.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda {

enum class Kernel : int32_t { imma_gemv, b1_gemv, gemm, fp32, matmul };
inline constexpr int kKernels = 5;
const char* name_of(Kernel kernel);

// Why a kernel does not run.
enum class Refusal : int32_t {
  none,          // it is the choice
  wants_exact,   // precision `exact`, but activations would be rounded
  not_exact,     // the other way round
  grouped_sums,  // scales inside a row, but the kernel's sums stay integers over whole rows
  wide_digits,   // digits of more than one bit
  architecture,  // see cuda/plan/architectures.h
  many_planes,   // the weight would be read more than once
  few_tokens,    // made for more
  many_tokens,   // made for fewer
  integers,      // activations of 8 bits and fewer, whose products stay exact
  no_matmul,     // the caller has none
  slower,        // it could run, another one reads as much with fewer instructions
};

struct Plan {
  Kernel kernel;
  std::array<Refusal, kKernels> refusals;  // by kernel
  int64_t columns;                         // of B: int8 columns, bit planes, or tokens of fp32 and fp16
  int64_t passes;                          // over the weight
  // GEMVs alone:
  Partition partition;
  int32_t column_tiles;  // of a pass, 8 columns each
  int64_t blocks;        // of a pass
  int64_t shared_bytes;  // of a block, dynamic
  int64_t arrivals;      // counters of blocks that share rows, and memory for their sums
  int64_t partial_bytes;
  // matmul alone: rows of the weight that are expanded at a time, and how often that is.
  int64_t tile_rows;
  int64_t tiles;
};

// Up to this many tokens a row of the result has the same bits whatever the others are.
inline constexpr int64_t kGemvTokens = 16;
// Tokens that are prepared and multiplied together; more come in several turns of the same memory.
inline constexpr int64_t kTurnTokens = 4096;

Plan choose(const Layer& layer, const ActivationKind& kind, int64_t tokens, const lowbit_cuda_device& device);

// One sentence each: why the plan's kernel was taken, and why `kernel` was not.
std::string reason(const Plan& plan, const Layer& layer, const ActivationKind& kind, int64_t tokens,
                   const lowbit_cuda_device& device);
std::string reason_against(Kernel kernel, const Plan& plan, const Layer& layer, const ActivationKind& kind,
                           int64_t tokens, const lowbit_cuda_device& device);

}  // namespace lowbit::cuda
