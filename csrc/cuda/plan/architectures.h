// What is known of GPU generations that a choice of kernel depends on.
#pragma once

#include <cstdint>

namespace lowbit::cuda {

struct Architecture {
  int32_t number;           // 10 * major + minor, the first that the row holds for
  bool b1;                  // whether one-bit products (m16n8k256, AND and population count) are worth taking
  const char* b1_why;       // the half sentence that says so
  double memory;            // bytes that it brings each multiprocessor in a clock
  double cache_rate;        // of the second-level cache, in times that of memory
  double latency;           // clocks, of memory that is busy
  double microsecond;       // in clocks: what blocks take that share rows, to leave sums and read them
  double int8_macs;         // multiply-adds of mma.sync in a clock of a multiprocessor
  int32_t block_shared_kb;  // that a block may have, CUDA C++ Programming Guide, technical specifications
};

// One-bit products need a fifth of the instructions of int8 products, if the tensor cores keep up. The
// instruction exists natively from sm_80 to sm_90, but its rate is published for one chip only: NVIDIA's data
// sheet of the A100 has 4,992 TOPS for one bit against 624 for int8. Elsewhere it is unmeasured, and int8
// products are the default: at 0.4 to 0.5 instructions per weight they are bound by memory there as well.
// From sm_100 on the instruction is emulated by eight int8 products.
//
// Rates are those of the largest chip, A100, A10, Jetson Orin, RTX 4090, H100, B200, RTX 5090: data sheets
// and the assumptions of benchmarks/cuda_report/gpus.py.
inline constexpr Architecture kArchitectures[] = {
    {80, true, "one-bit products run at 8 times the int8 rate", 13.4, 2.21, 916, 1410, 2048, 163},
    {86, false, "the rate of one-bit products is unmeasured on sm_86", 4.92, 3, 848, 1695, 1024, 99},
    {87, false, "the rate of one-bit products is unmeasured on sm_87", 9.85, 3.91, 845, 1300, 2048, 163},
    {89, false, "the rate of one-bit products is unmeasured on sm_89", 3.12, 4.96, 1260, 2520, 1024, 99},
    {90, false, "the rate of one-bit products is unmeasured on sm_90", 13.9, 1.67, 1464, 1830, 2048, 227},
    {100, false, "one-bit products are emulated by int8 products from sm_100 on", 29.2, 1.25, 1850, 1850,
     1024, 227},
    {120, false, "one-bit products are emulated by int8 products from sm_100 on", 4.38, 3.91, 1444, 2407,
     1024, 99},
};

inline constexpr const Architecture& architecture_of(int32_t number) {
  const Architecture* found = &kArchitectures[0];
  for (const Architecture& row : kArchitectures) {
    if (row.number <= number) found = &row;
  }
  return *found;
}

}  // namespace lowbit::cuda
