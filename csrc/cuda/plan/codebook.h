// Which kernel a codebook's product runs with, and its tile: pure functions of shapes and of the GPU's
// description, as cuda/plan/plan.h. The weights' pointers are not looked at.
#pragma once

#include <string>

#include "cuda/codebook/channel.h"
#include "cuda/codebook/scalar.h"
#include "cuda/codebook/vector.h"
#include "cuda/plan/json.h"

namespace lowbit::cuda::codebook {

enum class Kernel : int32_t {
  selectors,   // scalar: look-ups by PRMT, integer tensor cores
  tensor,      // vector: look-ups in shared memory, fp16 tensor cores
  gather,      // channel: output channels share rows
  label_sums,  // channel: input channels share columns
  fp32,        // scalar and vector: look-ups one by one, products on the CUDA cores
  matmul,      // scalar and vector: rows become fp16, for the matrix product that the caller has
};
const char* name_of(Kernel kernel);

// Why another kernel of the family does not run.
enum class Refusal : int32_t {
  none,           // it runs
  slower,         // it could run with several times the instructions or reads
  wants_exact,    // precision `exact`, but it rounds tables
  table_size,     // a look-up by PRMT does not hold such a table
  long_rows,      // a warp's integer sums would not fit
  vector_size,    // registers of an operand do not hold such a vector
  shared_memory,  // the codebooks do not fit a block's
  other_axis,     // labels name the other side of the weight
  integers,       // the precision asks for products of integers
  few_tokens,     // an expanded weight costs more than it saves
  no_matmul,      // the caller lends no matrix product
  many_tokens,    // it reads the weight once for every few of them
};

// Tokens that share the workspace of a call; more come in several turns.
inline constexpr int64_t kMostTokens = 1024;

struct Plan {
  Kernel kernel;
  Kernel rejected[2];
  Refusal refusals[2];    // of `rejected`; none: the family has no such kernel
  int64_t columns;        // of B, or tokens of fp32
  int64_t passes;         // over the weight
  int32_t row_warps;      // of a block: that have rows of their own
  int32_t input_warps;    // that share rows and divide their inputs
  int64_t blocks;         // of a pass
  int64_t shared_bytes;   // of a block, dynamic
  int32_t column_tiles;   // selectors: of a block, 8 columns each
  int32_t copies;         // tensor: of each entry in shared memory
  int64_t ranges;         // blocks that divide a row's inputs: sums that a second launch adds
  int64_t range_chunks;   // vector fp32: of a range
  int64_t second_blocks;  // channel: of the second launch, where ...
  int32_t second_warps;   // ... so many warps share rows
  int64_t tile_rows;      // matmul: rows that are expanded at a time
};

Plan choose(const ScalarWeight& weight, lowbit_precision precision, int64_t tokens,
            const lowbit_cuda_device& device);
// `two_columns`: a token takes two, see HalfColumns.
Plan choose(const VectorWeight& weight, lowbit_precision precision, bool two_columns, int64_t tokens,
            const lowbit_cuda_device& device);
Plan choose(const lowbit_codebook_channel& weight, int64_t tokens, const lowbit_cuda_device& device);

// One sentence each: why the plan's kernel was taken, and why another one was not.
std::string reason(const Plan& plan, const ScalarWeight& weight, int64_t tokens,
                   const lowbit_cuda_device& device);
std::string reason(const Plan& plan, const VectorWeight& weight, int64_t tokens,
                   const lowbit_cuda_device& device);
std::string reason(const Plan& plan, const lowbit_codebook_channel& weight);
std::string reason_against(Kernel kernel, Refusal refusal, const ScalarWeight& weight,
                           const lowbit_cuda_device& device);
std::string reason_against(Kernel kernel, Refusal refusal, const VectorWeight& weight,
                           const lowbit_cuda_device& device);
std::string reason_against(Kernel kernel, Refusal refusal, const lowbit_codebook_channel& weight,
                           const lowbit_cuda_device& device);

// What a product reads, as often as it reads it, and the memory it needs.
struct Traffic {
  int64_t weight, scales, workspace;
};

// The object of lowbit_cuda_explain, for these. `rejected`: Rejected::list(), see rejected_by().
std::string explain(const Plan& plan, const std::string& reason, const std::string& rejected, int64_t tokens,
                    int64_t launches, const Traffic& traffic);

template <class Weight>
std::string rejected_by(const Plan& plan, const Weight& weight, const lowbit_cuda_device& device) {
  Rejected rejected;
  for (int i = 0; i < 2 && plan.refusals[i] != Refusal::none; ++i) {
    rejected.add(name_of(plan.rejected[i]),
                 reason_against(plan.rejected[i], plan.refusals[i], weight, device));
  }
  return rejected.list();
}

}  // namespace lowbit::cuda::codebook
