// Prints where CuTe, NVIDIA's own description of its instructions, has the operands of a warp: one line
//
//   <instruction> <operand> <lanes> <values> <element of lane 0, value 0> <of lane 0, value 1> ...
//
// Elements count down the columns of a (rows first), of b (columns of the product first) and of c (rows
// first), and in bits for ldmatrix. Values count through a lane's registers from their lowest bit on.
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/tensor.hpp>

namespace {

template <class Layout>
void print(const char* instruction, const char* operand, Layout layout) {
  const int lanes = cute::size<0>(layout);
  const int values = cute::size<1>(layout);
  std::printf("%s %s %d %d", instruction, operand, lanes, values);
  for (int lane = 0; lane < lanes; ++lane) {
    for (int value = 0; value < values; ++value) std::printf(" %d", static_cast<int>(layout(lane, value)));
  }
  std::printf("\n");
}

template <class Operation>
void print_mma(const char* instruction) {
  using Traits = cute::MMA_Traits<Operation>;
  print(instruction, "a", typename Traits::ALayout{});
  print(instruction, "b", typename Traits::BLayout{});
  print(instruction, "c", typename Traits::CLayout{});
}

template <class Operation>
void print_copy(const char* instruction) {
  using Traits = cute::Copy_Traits<Operation>;
  print(instruction, "source", typename Traits::SrcLayout{});
  print(instruction, "destination", typename Traits::DstLayout{});
}

}  // namespace

int main() {
  print_mma<cute::SM80_16x8x32_S32U8S8S32_TN>("mma_u8s8");
  print_mma<cute::SM80_16x8x32_S32S8S8S32_TN>("mma_s8s8");
  print_mma<cute::SM80_16x8x256_S32U1U1S32_TN_ANDPOPC>("mma_b1_and");
  print_mma<cute::SM80_16x8x16_F32F16F16F32_TN>("mma_f16");
  print_mma<cute::SM80_16x8x16_F32BF16BF16F32_TN>("mma_bf16");
  print_copy<cute::SM75_U32x4_LDSM_N>("ldmatrix_x4");
  print_copy<cute::SM75_U16x8_LDSM_T>("ldmatrix_x4_trans");
}
