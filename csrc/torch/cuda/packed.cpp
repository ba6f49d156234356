#include "torch/cuda/packed.h"

#include <bit>

namespace lowbit::torch_ops {
namespace {

constexpr int64_t kVectorEntries = 256;

int64_t words(const Checker& check, lowbit_status status, size_t bytes) {
  if (status != LOWBIT_OK) check.fail(lowbit_cuda_last_error());
  return ceil_div(static_cast<int64_t>(bytes), kWordBytes);
}

}  // namespace

lowbit_cuda_codebook_scalar describe_scalar(const Checker& check, const Tensor& tables, int64_t in_features) {
  const uint64_t entries = tables.dim() == 2 ? static_cast<uint64_t>(tables.size(1)) : 0;
  check.require(std::has_single_bit(entries) && entries >= 2 && entries <= 256,
                "tables must be [out_features, 2^bits] with 1 to 8 bits");
  check.expect_float(tables, "tables", {tables.size(0), tables.size(1)});
  lowbit_cuda_codebook_scalar weight{};
  weight.out_features = tables.size(0);
  weight.in_features = in_features;
  weight.bits = std::countr_zero(entries);
  weight.tables = tables.data();
  weight.tables_dtype = c_dtype(tables.dtype());
  return weight;
}

int64_t scalar_words(const Checker& check, const lowbit_cuda_codebook_scalar& weight) {
  size_t bytes = 0;
  const lowbit_status status = lowbit_cuda_codebook_scalar_size(&weight, &bytes);
  return words(check, status, bytes);
}

lowbit_cuda_codebook_vector describe_vector(const Checker& check, const Tensor& codebooks,
                                            int64_t out_features, int64_t in_features) {
  check.require(codebooks.dim() == 3 && codebooks.size(0) >= 1 && codebooks.size(2) >= 1,
                "codebooks must be [codebooks, 256, vector_size]");
  check.expect_float(codebooks, "codebooks", {codebooks.size(0), kVectorEntries, codebooks.size(2)});
  lowbit_cuda_codebook_vector weight{};
  weight.out_features = out_features;
  weight.in_features = in_features;
  weight.num_codebooks = static_cast<int32_t>(codebooks.size(0));
  weight.vector_size = static_cast<int32_t>(codebooks.size(2));
  weight.codebooks = codebooks.data();
  weight.dtype = c_dtype(codebooks.dtype());
  return weight;
}

int64_t vector_words(const Checker& check, const lowbit_cuda_codebook_vector& weight) {
  size_t bytes = 0;
  const lowbit_status status = lowbit_cuda_codebook_vector_size(&weight, &bytes);
  return words(check, status, bytes);
}

}  // namespace lowbit::torch_ops
