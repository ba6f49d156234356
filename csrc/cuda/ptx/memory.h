// Loads that say how long their data will be wanted, copies that do not wait, fragments from shared memory.
#pragma once

#include "cuda/ptx/integer.h"

namespace lowbit::cuda {

// 16 bytes that are read once (weights): they pass by the L1 cache. Not volatile, so that the compiler may
// load ahead, before wait_for_previous_kernel() too: only for data that no kernel in flight writes.
LOWBIT_DEVICE uint4 load_stream(const uint4* source) {
#ifdef LOWBIT_EMULATED
  return emulated::load_16(source, "load_stream");
#else
  uint4 value;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(source));
  return value;
#endif
}

// The same where it is `wanted`; else the value is undefined. A load under a branch leaves a register as it
// was where the branch is not taken, so the compiler may not load before the register's old value is used up,
// or moves that; this one it may put anywhere.
LOWBIT_DEVICE uint4 load_stream_if(bool wanted, const uint4* source) {
#ifdef LOWBIT_EMULATED
  constexpr uint32_t kUndefined = 0xdeadbeef;
  return wanted ? load_stream(source) : uint4{kUndefined, kUndefined, kUndefined, kUndefined};
#else
  uint4 value;
  asm("{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %5, 0;\n"
      "@wanted ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(source), "r"(static_cast<uint32_t>(wanted)));
  return value;
#endif
}

// 16 bytes that neighbours read as well (activations): kept in L1. Volatile and without `.nc`, because the
// previous kernel may have written them while this one was already running.
LOWBIT_DEVICE uint4 load_cached(const uint4* source) {
#ifdef LOWBIT_EMULATED
  return emulated::load_16(source, "load_cached");
#else
  uint4 value;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(source));
  return value;
#endif
}

// The same, 8 and 4 bytes.
LOWBIT_DEVICE uint2 load_cached(const uint2* source) {
#ifdef LOWBIT_EMULATED
  return *source;
#else
  uint2 value;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(source));
  return value;
#endif
}
LOWBIT_DEVICE float load_cached(const float* source) {
#ifdef LOWBIT_EMULATED
  return *source;
#else
  float value;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(source));
  return value;
#endif
}

// 16 bytes of the weight that other lanes and turns read as well (scales): kept in L1. Volatile, so that it
// stays where it is and takes no registers before.
LOWBIT_DEVICE uint4 load_constant(const uint4* source) {
#ifdef LOWBIT_EMULATED
  return emulated::load_16(source, "load_constant");
#else
  uint4 value;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(source));
  return value;
#endif
}

// Starts the copy of 16 bytes into shared memory; zeros, and no access to `global`, where not valid. The copy
// belongs to the group closed by the next cp_async_commit() of this thread and may be read by this thread
// after cp_async_wait, by others after a barrier that follows it.
LOWBIT_DEVICE void cp_async_16(void* shared, const void* global, bool valid) {
#ifdef LOWBIT_EMULATED
  emulated::cp_async_16(shared, global, valid);
#else
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(valid ? 16 : 0)
               : "memory");
#endif
}

LOWBIT_DEVICE void cp_async_commit() {
#ifdef LOWBIT_EMULATED
  emulated::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

// Waits until at most the kPending youngest groups of this thread are still under way.
template <int kPending>
LOWBIT_DEVICE void cp_async_wait() {
#ifdef LOWBIT_EMULATED
  emulated::cp_async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" : : "n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix
// l / 8 (16 bytes, aligned) and receives, of every matrix i, elements 2 (l % 4) and + 1 of row l / 4 in d[i].
LOWBIT_DEVICE void ldmatrix_x4(uint32_t (&d)[4], const void* row) {
#ifdef LOWBIT_EMULATED
  emulated::ldmatrix_x4(d, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same of the transposed matrices: rows 2 (l % 4) and + 1 of column l / 4.
LOWBIT_DEVICE void ldmatrix_x4_trans(uint32_t (&d)[4], const void* row) {
#ifdef LOWBIT_EMULATED
  emulated::ldmatrix_x4(d, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// Brings the line of `address` to the L2 cache. Nothing to wait for, and no value is read, so data that the
// previous kernel still writes does no harm.
LOWBIT_DEVICE void prefetch_l2(const void* address) {
#ifdef LOWBIT_EMULATED
  static_cast<void>(*static_cast<const volatile char*>(address));
#else
  asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
#endif
}

// A place in shared memory in the 32 bits that it takes, so that one multiply-add makes the address of a
// table's entry.
class SharedAddress {
 public:
#ifdef LOWBIT_EMULATED
  using Value = uintptr_t;
  LOWBIT_DEVICE explicit SharedAddress(const void* shared) : value_(reinterpret_cast<Value>(shared)) {}
#else
  using Value = uint32_t;
  LOWBIT_DEVICE explicit SharedAddress(const void* shared)
      : value_(in_register(static_cast<Value>(__cvta_generic_to_shared(shared)))) {}
#endif

  LOWBIT_DEVICE SharedAddress operator+(uint32_t bytes) const { return SharedAddress(value_ + bytes); }

  // Starts the copy of 16 bytes to it, as cp_async_16; nothing at all where not `wanted`.
  LOWBIT_DEVICE void copy_async_16_if(bool wanted, const void* global) const {
#ifdef LOWBIT_EMULATED
    if (wanted) emulated::cp_async_16(reinterpret_cast<void*>(value_), global, true);
#else
    asm volatile(
        "{\n"
        ".reg .pred wanted;\n"
        "setp.ne.u32 wanted, %2, 0;\n"
        "@wanted cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n"
        "}"
        :
        : "r"(value_), "l"(global), "r"(static_cast<uint32_t>(wanted))
        : "memory");
#endif
  }

  // What lies there: 8 or 16 bytes, aligned to as many.
  LOWBIT_DEVICE void load(uint2& value) const {
#ifdef LOWBIT_EMULATED
    value = *reinterpret_cast<const uint2*>(value_);
#else
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(value_));
#endif
  }
  LOWBIT_DEVICE void load(uint4& value) const {
#ifdef LOWBIT_EMULATED
    value = *reinterpret_cast<const uint4*>(value_);
#else
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(value_));
#endif
  }

 private:
  LOWBIT_DEVICE explicit SharedAddress(Value value) : value_(value) {}

  Value value_;
};

}  // namespace lowbit::cuda
