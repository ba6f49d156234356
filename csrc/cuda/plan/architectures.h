// What is known of GPU generations that a choice of kernel depends on.
#pragma once

#include <cstdint>

namespace lowbit::cuda {

struct Architecture {
  int32_t number;      // 10 * major + minor, the first that the row holds for
  bool b1;             // whether one-bit products (m16n8k256, AND and population count) are worth taking
  const char* b1_why;  // the half sentence that says so
  double cache_rate;   // of the second-level cache, in times that of memory
  double arrival;      // superblocks that a multiprocessor's share of memory's rate brings in a microsecond
  int32_t block_shared_kb;  // that a block may have, CUDA C++ Programming Guide, technical specifications
};

// One-bit products need a fifth of the instructions of int8 products, if the tensor cores keep up. The
// instruction exists natively from sm_80 to sm_90, but its rate is published for one chip only: NVIDIA's data
// sheet of the A100 has 4,992 TOPS for one bit against 624 for int8. Elsewhere it is unmeasured, and int8
// products are the default: at 0.4 to 0.5 instructions per weight they are bound by memory there as well.
// From sm_100 on the instruction is emulated by eight int8 products.
//
// Rates are those of the largest chip: A100, A10, RTX 4090, H100, B200, RTX 5090
// (benchmarks/cuda_report/gpus.py).
inline constexpr Architecture kArchitectures[] = {
    {80, true, "one-bit products run at 8 times the int8 rate", 2.2, 9, 163},
    {86, false, "the rate of one-bit products is unmeasured on sm_86", 3, 4, 99},
    {87, false, "the rate of one-bit products is unmeasured on sm_87", 3, 6, 163},
    {89, false, "the rate of one-bit products is unmeasured on sm_89", 5, 4, 99},
    {90, false, "the rate of one-bit products is unmeasured on sm_90", 1.7, 12, 227},
    {100, false, "one-bit products are emulated by int8 products from sm_100 on", 1.25, 26, 227},
    {120, false, "one-bit products are emulated by int8 products from sm_100 on", 3.9, 5, 99},
};

inline constexpr const Architecture& architecture_of(int32_t number) {
  const Architecture* found = &kArchitectures[0];
  for (const Architecture& row : kArchitectures) {
    if (row.number <= number) found = &row;
  }
  return *found;
}

}  // namespace lowbit::cuda
