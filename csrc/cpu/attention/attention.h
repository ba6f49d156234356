// Attention of one token: the heads that share keys and values are the rows of one query.
//
//   scores[r][p] = scale query[r] . keys[p]        for the positions p that are seen
//   out[r] = sum_p softmax(scores[r])[p] values[p]
//
// Positions are cut into stretches of kStretch, whatever the number of threads. Each leaves a part,
//
//   largest[r] = max scores[r],  sum[r] = sum_p exp(scores[r] - largest[r]),  weighted[r] = the same sum of
//                                                                             exp(..) values[p]
//
// and parts are put together in ascending order: results do not depend on the threads.
#pragma once

#include <cstdint>

#include "lowbit.h"

namespace lowbit {

namespace attention {

constexpr int64_t kStretch = 64;

// Rows of floats are padded to whole vectors of every instruction set.
constexpr int64_t padded(int64_t count) {
  return (count + 15) / 16 * 16;
}

// What a stretch leaves of one group of heads.
struct Part {
  float* largest;   // [rows]; -infinity where nothing is seen
  float* sum;       // [rows]
  float* weighted;  // [rows][padded(value_width)]
};

struct Stretch {
  int64_t rows;                    // heads of the group
  int64_t width, value_width;      // of keys and values
  const float* query;              // [rows][padded(width)], times scale, 0 beyond width
  float softcap;                   // 0: none
  const void *keys, *values;       // of position 0
  int64_t key_bytes, value_bytes;  // from one position to the next
  lowbit_dtype dtype;              // of both
  const int32_t* positions;        // [count], those that are seen
  int64_t count;                   // 0 .. kStretch
  float* scores;                   // [rows][kStretch], scratch
};

}  // namespace attention

struct AttentionKernels {
  void (*stretch)(const attention::Stretch& stretch, const attention::Part& part);
  // One row of the result from its `count` parts; from one part to the next are part_stride floats.
  void (*merge)(const float* largest, const float* sum, const float* weighted, int64_t part_stride,
                int64_t count, int64_t value_width, void* out, lowbit_dtype dtype);
};

const AttentionKernels& attention_kernels(lowbit_isa isa);

}  // namespace lowbit
