// Shared channels: small dense products whose results (axis 0) or whose inputs (axis 1) are addressed by
// labels.
//
//   axis 0   launch 1   parts[m] = [ weight x_m | low_rank_in x_m ]            clusters + rank dense rows
//            launch 2   y[m][n] = parts[m][labels[n]] + low_rank_out[n] . low part
//   axis 1   launch 1   parts[m] = [ x_m summed by label | low_rank_in x_m ]   rank dense rows
//            launch 2   y[m][n] = weight[n] . sums + low_rank_out[n] . low part
//
// All sums are fp32 in an order that depends on the layer alone. The weights are read in the canonical
// layout, 16 bytes at a time where rows begin at multiples of that.
#pragma once

#include "cuda/bits/bits.h"
#include "cuda/launch.h"
#include "lowbit.h"

namespace lowbit::cuda::codebook {

struct Plan;  // cuda/plan/codebook.h

inline constexpr int kLabelLanes =
    8;  // lanes that sum the inputs of a label, and that share a row's low-rank term
inline constexpr int kLabelsOfBlock = 32;  // 256 threads

struct ChannelProduct {
  lowbit_codebook_channel weight;
  const int32_t*
      order;  // axis 1: where each label's inputs begin [clusters + 1], then the inputs by label [K]
  lowbit_input x;
  float* parts;  // [tokens][clusters + rank]
  Result result;
};

inline int64_t channel_parts(const lowbit_codebook_channel& weight) {
  return weight.clusters + weight.rank;
}

void order_labels(const lowbit_codebook_channel& weight, int32_t* order, Stream stream);
void product_channel(const ChannelProduct& product, const Plan& plan, Stream stream);

}  // namespace lowbit::cuda::codebook
