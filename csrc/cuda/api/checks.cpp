#include "cuda/api/checks.h"

#include <cstdio>

#include "cuda/error.h"

namespace lowbit::cuda {
namespace {

using Integer = long long;  // what printf's %lld takes

constexpr int64_t kMaxOutputs = int64_t{1} << 30;

// "1, 2, 4": where a weight's digits end.
void list_ends(const lowbit_cuda_bits& bits, char (&text)[64]) {
  int used = 0;
  int32_t end = 0;
  for (int32_t d = 0; d < bits.num_digits; ++d) {
    end += bits.digits[d];
    used += std::snprintf(text + used, sizeof text - used, d == 0 ? "%d" : ", %d", end);
  }
}

void check_digits(const lowbit_cuda_bits& bits, const char* name) {
  if (bits.num_digits < 1 || bits.num_digits > LOWBIT_CUDA_MAX_DIGITS) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d digits; allowed: 1 to %d", name, bits.num_digits,
                LOWBIT_CUDA_MAX_DIGITS);
  }
  int32_t sum = 0;
  for (int32_t d = 0; d < bits.num_digits; ++d) {
    const int32_t width = bits.digits[d];
    if (width != 1 && width != 2 && width != 4) {
      throw Error(LOWBIT_INVALID_ARGUMENT, "%s has a digit of %d bits; allowed: 1, 2 or 4", name, width);
    }
    sum += width;
  }
  if (sum != bits.bits) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d bits, but its digits have %d", name, bits.bits, sum);
  }
}

}  // namespace

void check_not_null(const void* pointer, const char* name) {
  if (pointer == nullptr) throw Error(LOWBIT_INVALID_ARGUMENT, "%s is a null pointer", name);
}

void check_range(int64_t value, int64_t smallest, int64_t largest, const char* name) {
  if (smallest <= value && value <= largest) return;
  throw Error(LOWBIT_INVALID_ARGUMENT, "%s is %lld; allowed: %lld to %lld", name, Integer{value},
              Integer{smallest}, Integer{largest});
}

void check_dtype(lowbit_dtype dtype, const char* name) {
  if (dtype == LOWBIT_F32 || dtype == LOWBIT_F16 || dtype == LOWBIT_BF16) return;
  throw Error(LOWBIT_INVALID_ARGUMENT, "%s has dtype %d; allowed: 0 (fp32), 1 (fp16), 2 (bf16)", name,
              static_cast<int>(dtype));
}

void check_device(const lowbit_cuda_device* device) {
  check_not_null(device, "device");
  if (device->architecture < 80) {
    throw Error(
        LOWBIT_UNSUPPORTED,
        "the GPU has compute capability %d.%d; the CUDA kernels need 8.0 or newer (the backends triton and "
        "torch serve older ones)",
        device->architecture / 10, device->architecture % 10);
  }
  check_range(device->multiprocessors, 1, INT32_MAX, "device.multiprocessors");
}

void check_input(const lowbit_input* x, int64_t in_features) {
  check_not_null(x, "x");
  check_dtype(x->dtype, "x");
  if (x->rows < 0) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "x has %lld rows; allowed: 0 or more", Integer{x->rows});
  }
  if (x->cols != in_features) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "x has %lld columns; allowed: %lld, the in_features of the weight",
                Integer{x->cols}, Integer{in_features});
  }
  if (x->rows > 0) check_not_null(x->data, "x.data");
}

void check_output(const lowbit_output* y, int64_t rows, int64_t out_features) {
  check_not_null(y, "y");
  check_dtype(y->dtype, "y");
  if (y->rows != rows || y->cols != out_features) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "y is [%lld, %lld]; allowed: [%lld, %lld]", Integer{y->rows},
                Integer{y->cols}, Integer{rows}, Integer{out_features});
  }
  // Rows that overlap would be written by several threads.
  if (rows > 1 && y->row_stride < y->cols && y->row_stride > -y->cols) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "y has row_stride %lld; allowed: at least its %lld columns",
                Integer{y->row_stride}, Integer{y->cols});
  }
  if (rows > 0) check_not_null(y->data, "y.data");
}

void check_bias(const lowbit_vector* bias, int64_t out_features) {
  if (bias == nullptr || bias->data == nullptr) return;
  if (bias->size != out_features) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "bias has %lld values; allowed: %lld", Integer{bias->size},
                Integer{out_features});
  }
  check_dtype(bias->dtype, "bias");
}

void check_workspace(const void* workspace, size_t bytes, size_t needed) {
  if (needed == 0) return;
  check_not_null(workspace, "workspace");
  if (bytes < needed) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "workspace has %zu bytes; allowed: %zu or more", bytes, needed);
  }
  if (reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlign != 0) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "workspace is at address %p; allowed: multiples of %zu", workspace,
                kWorkspaceAlign);
  }
}

void check_layout(const lowbit_cuda_bits& bits, const char* name) {
  if (bits.out_features < 1 || bits.in_features < 1) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %lld outputs and %lld inputs; allowed: 1 or more of each",
                name, Integer{bits.out_features}, Integer{bits.in_features});
  }
  if (bits.out_features > kMaxOutputs || bits.in_features > kMaxWholeInputs) {
    throw Error(LOWBIT_UNSUPPORTED, "%s has %lld outputs and %lld inputs; allowed: up to %lld and %lld", name,
                Integer{bits.out_features}, Integer{bits.in_features}, Integer{kMaxOutputs},
                Integer{kMaxWholeInputs});
  }
  if (bits.bits < 1 || bits.bits > 8) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d bits; allowed: 1 to 8", name, bits.bits);
  }
  check_digits(bits, name);
  if (bits.group_size != -1 &&
      (bits.group_size < 1 || bits.group_size > INT32_MAX || bits.group_size % 32 != 0)) {
    throw Error(LOWBIT_INVALID_ARGUMENT,
                "%s has group_size %lld; allowed: -1 or a positive multiple of 32 below 2^31", name,
                Integer{bits.group_size});
  }
}

void check_bits(const lowbit_cuda_bits& bits, const char* name) {
  check_layout(bits, name);
  if (bits.tiles == nullptr) throw Error(LOWBIT_INVALID_ARGUMENT, "%s: tiles is a null pointer", name);
  if (bits.scales != nullptr) return check_dtype(bits.scales_dtype, name);
  if (bits.offsets != nullptr && bits.group_size != -1) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has group_size %lld and offsets, but scales is a null pointer",
                name, Integer{bits.group_size});
  }
}

void check_experts(int32_t experts, const char* name) {
  if (0 <= experts && experts <= kMaxExperts) return;
  throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d experts; allowed: 0 to %d", name, experts, kMaxExperts);
}

void check_signs(const lowbit_cuda_signs& segment, const char* name) {
  check_bits(segment.bits, name);
  check_experts(segment.experts, name);
  if (segment.experts == 0) return;
  check_dtype(segment.dtype, name);
  const struct {
    const void* pointer;
    const char* member;
  } needed[] = {{segment.in_scales, "in_scales"},
                {segment.out_scales, "out_scales"},
                {segment.experts > 1 ? segment.router : segment.in_scales, "router"}};
  for (const auto& table : needed) {
    if (table.pointer != nullptr) continue;
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has %d experts, but %s is a null pointer", name, segment.experts,
                table.member);
  }
  if (segment.experts > 1 && segment.out_scales_stride < segment.bits.out_features) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "%s has out_scales_stride %lld; allowed: at least its %lld outputs",
                name, Integer{segment.out_scales_stride}, Integer{segment.bits.out_features});
  }
}

void check_active_bits(const lowbit_cuda_bits& bits, int32_t active_bits) {
  int32_t end = 0;
  for (int32_t d = 0; d < bits.num_digits && end < active_bits; ++d) end += bits.digits[d];
  if (active_bits > 0 && end == active_bits) return;
  char ends[64];
  list_ends(bits, ends);
  throw Error(LOWBIT_INVALID_ARGUMENT, "active_bits is %d; allowed: %s, where a digit of the weight ends",
              active_bits, ends);
}

}  // namespace lowbit::cuda
