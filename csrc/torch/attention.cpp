// lowbit::attention: checks and unpacks the arguments, then calls lowbit_attention.
#include "torch/operators.h"
#include "torch/tape.h"
#include "torch/tensor.h"

namespace lowbit::torch_ops {
namespace {

// A tensor [batch, heads, positions, width] whose last dimension has no gaps.
void expect_states(const Checker& check, const Tensor& tensor, const char* name, const Tensor& query,
                   int64_t length) {
  const bool fits = tensor.dtype() == query.dtype() && tensor.dim() == 4 && tensor.size(0) == query.size(0) &&
                    tensor.size(2) == length && (tensor.size(3) == 1 || tensor.stride(3) == 1);
  if (fits) return;
  check.fail(std::string(name) +
             " must be [batch, groups, length, width] of query's dtype, the last dimension " +
             "without gaps; found " + tensor.describe() + " with query " + query.describe());
}

}  // namespace

template <bool kOut>
void attention(StableIValue* stack, uint64_t, uint64_t) {
  const Checker check("attention");
  Arguments args(stack);
  const Tensor query = args.tensor();
  const Tensor keys = args.tensor();
  const Tensor values = args.tensor();
  const Tensor seen = args.optional_tensor();
  const double scale = args.number();
  const double softcap = args.number();
  const Tensor out = kOut ? args.tensor() : Tensor();

  check.require(is_float(query.dtype()) && query.dim() == 4 && query.size(2) == 1,
                "query must be a float32, float16 or bfloat16 tensor [batch, heads, 1, width]");
  check.require(keys.dim() == 4, "keys must be [batch, groups, length, width]");
  const int64_t length = keys.size(2);
  expect_states(check, query, "query", query, 1);
  expect_states(check, keys, "keys", query, length);
  expect_states(check, values, "values", query, length);
  check.require(keys.size(1) >= 1 && keys.size(1) == values.size(1) && query.size(1) >= 1 &&
                    query.size(1) % keys.size(1) == 0,
                "query's heads must be a multiple of the groups of keys and values");
  check.require(keys.size(3) == query.size(3), "keys must be as wide as query");
  if (seen) {
    check.require(seen.dtype() == Dtype::kBool && seen.dim() == 2 && seen.size(0) == query.size(0) &&
                      seen.size(1) == length && (length <= 1 || seen.stride(1) == 1),
                  "seen must be bool [batch, length], rows without gaps");
  }
  if (out) check.expect(out, "out", query.dtype(), {query.size(0), query.size(1), 1, values.size(3)});

  OwnedTensor made;
  if (!out) made.reset(empty_rows(query, values.size(3), query.dtype()));
  const Tensor& result = out ? out : made.get();
  lowbit_attention_call call{};
  call.batch = query.size(0);
  call.heads = query.size(1);
  call.groups = keys.size(1);
  call.length = length;
  call.width = query.size(3);
  call.value_width = values.size(3);
  call.dtype = c_dtype(query.dtype());
  call.query = query.data();
  call.keys = keys.data();
  call.values = values.data();
  for (int i = 0; i < 2; ++i) call.query_stride[i] = query.stride(i);
  for (int i = 0; i < 3; ++i) {
    call.keys_stride[i] = keys.stride(i);
    call.values_stride[i] = values.stride(i);
  }
  if (seen) {
    call.seen = static_cast<const uint8_t*>(seen.data());
    call.seen_stride = seen.stride(0);
  }
  call.scale = static_cast<float>(scale);
  call.softcap = static_cast<float>(softcap);
  call.out = result.data();
  follow_torch_threads();
  check.status(lowbit_attention(&call));
  if (Tape* tape = Tape::recording()) tape->add([call] { return lowbit_attention(&call); });
  if (!out) args.stack()[0] = reinterpret_cast<StableIValue>(made.release());
}

LOWBIT_INSTANTIATE(attention)

}  // namespace lowbit::torch_ops
