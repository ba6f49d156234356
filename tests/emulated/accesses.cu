// Accesses to memory beside what there is, at addresses that do not suit, or before the data has come.
#include "cuda/ptx/grid.h"
#include "cuda/ptx/memory.h"
#include "entry.h"

namespace lowbit::cuda {
namespace {

struct CopyParams {
  const int* x;
  int* y;
  int64_t x_offset, y_offset;
};

// Thread i copies element i, both sides moved by an offset that may lead out of the buffer.
__global__ void copy(const CopyParams p) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  p.y[static_cast<int64_t>(i) + p.y_offset] = p.x[static_cast<int64_t>(i) + p.x_offset];
}

enum SharedKind { kStatic, kDynamic };

struct SharedParams {
  int* y;
  SharedKind kind;
  int64_t read, write;  // elements of the array of 20
};

__global__ void touch_shared(const SharedParams p) {
  LOWBIT_SHARED(int, fixed, 20);
  LOWBIT_DYNAMIC_SHARED(int, dynamic);
  int* const array = p.kind == kStatic ? fixed : dynamic;
  if (threadIdx.x == 3) {
    // Through volatile, or the compiler would see what is wrong.
    volatile int* const elements = array;
    for (int i = 0; i < 20; ++i) elements[i] = 7;
    elements[p.write] = 8;
    p.y[0] = elements[p.read];
  }
}

enum WideKind {
  kLoadStream,
  kLoadCached,
  kCopySource,
  kCopyDestination,
  kMatrixRow,
  kLoadFromShared,
  kCopyFromShared
};

struct WideParams {
  const char* x;  // 64 bytes
  uint4* y;
  WideKind kind;
  int64_t offset;  // in bytes
};

// One 16-byte access per thread, of four, moved by an offset that suits if it is a multiple of 16.
__global__ void wide(const WideParams p) {
  LOWBIT_DYNAMIC_SHARED(char, shared);
  const unsigned i = threadIdx.x;
  const auto* const source = reinterpret_cast<const uint4*>(p.x + 16 * (i & 3) + p.offset);
  uint4 value = make_uint4(0, 0, 0, 0);
  switch (p.kind) {
    case kLoadStream:
      value = load_stream(source);
      break;
    case kLoadCached:
      value = load_cached(source);
      break;
    case kLoadFromShared:
      value = load_stream(reinterpret_cast<const uint4*>(shared));
      break;
    case kCopyFromShared:
      cp_async_16(shared, shared + 16, true);
      break;
    case kMatrixRow: {
      uint32_t d[4];
      ldmatrix_x4(d, shared + 16 * i + p.offset);
      break;
    }
    default: {
      char* const destination = shared + 16 * i + (p.kind == kCopyDestination ? p.offset : 0);
      cp_async_16(destination, p.kind == kCopySource ? static_cast<const void*>(source) : p.x, true);
      cp_async_commit();
      cp_async_wait<0>();
      value = *reinterpret_cast<const uint4*>(destination);
    }
  }
  if (i < 4) p.y[i] = value;
}

enum PipelineBug { kNone, kNoWait, kNoCommit, kWaitTooLate, kNoBarrierBefore, kNoBarrierAfter };

struct PipelineParams {
  const int* x;  // [tiles][32]
  int* y;        // [32]: sums over the tiles, of the mirrored element
  int tiles, valid;
  PipelineBug bug;
};

// Tiles of 32 int pass through two buffers, one being filled while the other is summed by other threads than
// those that filled it. Tiles from `valid` on are zeros that nobody reads.
__global__ void pipeline(const PipelineParams p) {
  LOWBIT_SHARED(int, tiles, 2 * 32);
  const int i = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int tile) {
    if (tile < p.tiles && i < 8) {
      cp_async_16(tiles + 32 * (tile & 1) + 4 * i, p.x + 32 * tile + 4 * i, tile < p.valid);
    }
    if (p.bug != kNoCommit) cp_async_commit();
  };
  fetch(0);
  unsigned sum = 0;  // of poison too
  for (int tile = 0; tile < p.tiles; ++tile) {
    fetch(tile + 1);
    if (p.bug == kWaitTooLate) {
      cp_async_wait<2>();
    } else if (p.bug != kNoWait) {
      cp_async_wait<1>();
    }
    if (p.bug != kNoBarrierBefore) __syncthreads();
    sum += static_cast<unsigned>(tiles[32 * (tile & 1) + 31 - i]);
    if (p.bug != kNoBarrierAfter) __syncthreads();
  }
  p.y[i] = static_cast<int>(sum);
}

// Reads a copy before the wait, after it, and what an invalid copy leaves.
__global__ void late_copy(const uint4* x, uint4* y) {
  LOWBIT_SHARED(uint4, shared, 2);
  shared[0] = make_uint4(1, 2, 3, 4);
  cp_async_16(&shared[0], x, true);
  cp_async_16(&shared[1], nullptr, false);
  cp_async_commit();
  y[0] = shared[0];
  cp_async_wait<1>();
  y[1] = shared[0];
  cp_async_wait<0>();
  y[2] = shared[0];
  y[3] = shared[1];
}

// Recursion without end, hidden from the compiler.
__device__ int recurse(volatile int* y, int depth) {
  volatile char frame[512];
  frame[depth & 511] = static_cast<char>(depth);
  if (*y == depth) return frame[0];
  return recurse(y, depth + 1) + frame[depth & 511];
}

__global__ void overflow_stack(int* y) {
  y[1 + threadIdx.x] = recurse(y, 0);
}

__global__ void use_shared(int* y) {
  LOWBIT_SHARED(int, array, 1024);
  LOWBIT_DYNAMIC_SHARED(int, dynamic);
  array[threadIdx.x] = 1;
  dynamic[threadIdx.x] = 2;
  y[threadIdx.x] = array[threadIdx.x] + dynamic[threadIdx.x];
}

struct OverlapParams {
  int* y;
  int waiting_blocks;
};

__global__ void overlapping(const OverlapParams p) {
  if (static_cast<int>(blockIdx.x) < p.waiting_blocks) wait_for_previous_kernel();
  p.y[blockIdx.x] = 1;
  release_next_kernel();
}

}  // namespace
}  // namespace lowbit::cuda

LOWBIT_ENTRY test_copy(const int* x, int* y, int32_t blocks, int64_t x_offset, int64_t y_offset) {
  using namespace lowbit::cuda;
  return run(copy, {.grid = dim3(blocks), .block = dim3(32)}, {x, y, x_offset, y_offset});
}

LOWBIT_ENTRY test_touch_shared(int* y, int32_t kind, int64_t read, int64_t write) {
  using namespace lowbit::cuda;
  return run(touch_shared, {.grid = dim3(2), .block = dim3(4), .dynamic_shared = 80},
             {y, static_cast<SharedKind>(kind), read, write});
}

LOWBIT_ENTRY test_wide(const char* x, uint4* y, int32_t kind, int64_t offset) {
  using namespace lowbit::cuda;
  return run(wide, {.grid = dim3(1), .block = dim3(32), .dynamic_shared = 544},
             {x, y, static_cast<WideKind>(kind), offset});
}

LOWBIT_ENTRY test_pipeline(const int* x, int* y, int32_t tiles, int32_t valid, int32_t bug) {
  using namespace lowbit::cuda;
  return run(pipeline, {.grid = dim3(1), .block = dim3(32)},
             {x, y, tiles, valid, static_cast<PipelineBug>(bug)});
}

LOWBIT_ENTRY test_late_copy(const uint4* x, uint4* y) {
  using namespace lowbit::cuda;
  return run(late_copy, {.grid = dim3(1), .block = dim3(1)}, x, y);
}

LOWBIT_ENTRY test_overflow_stack(int* y) {
  using namespace lowbit::cuda;
  return run(overflow_stack, {.grid = dim3(1), .block = dim3(2)}, y);
}

LOWBIT_ENTRY test_use_shared(int* y, int32_t threads, int64_t dynamic_shared) {
  using namespace lowbit::cuda;
  return run(use_shared,
             {.grid = dim3(1), .block = dim3(threads), .dynamic_shared = static_cast<size_t>(dynamic_shared)},
             y);
}

LOWBIT_ENTRY test_overlapping(int* y, int32_t overlaps, int32_t waiting_blocks) {
  using namespace lowbit::cuda;
  return run(overlapping, {.grid = dim3(3), .block = dim3(32), .overlaps_previous = overlaps != 0},
             {y, waiting_blocks});
}
