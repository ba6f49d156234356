// Linear layers over digit tiles: what the entries of the families signs and planes share.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/activations/prologue.h"
#include "cuda/bits/bits.h"
#include "cuda/plan/plan.h"
#include "lowbit_cuda.h"

namespace lowbit::cuda {

// Segments, activations and precision of a call, already checked.
struct BitsCall {
  lowbit_cuda_device device;
  const lowbit_cuda_signs* segments;
  int32_t num_segments;
  int32_t active_bits;
  ActivationKind kind;
};

// The first segments of a call that one prologue and one product can serve: alike in units and dtypes, and
// not more than kMaxSegments. `count` is at least 1 where there are segments left.
struct Run {
  Layer layer;
  Mix mixes[kMaxSegments];
  int32_t sets;
  int32_t count;
  int64_t out_features;
};
Run next_run(const BitsCall& call, int32_t first);

// Memory for staged activations.
size_t workspace_bytes(const BitsCall& call, int64_t tokens);

// Two launches for every run and turn, or one and three for every tile.
void bits_linear(const BitsCall& call, const lowbit_input& x, const lowbit_vector* bias,
                 const lowbit_output& y, void* workspace, Stream stream);

// The prologue of the first run alone, for as many tokens as the workspace was asked for.
lowbit_cuda_staged stage_run(const BitsCall& call, const Run& run, const lowbit_input& x, void* workspace,
                             Stream stream);

// The plan of the first run as a JSON object, see lowbit_cuda_explain.
std::string explain(const BitsCall& call, int64_t tokens);

}  // namespace lowbit::cuda
