#include "core/cpu_features.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "core/error.h"

namespace lowbit {
namespace {

// Best last: the automatic choice is the last available one.
constexpr std::array kIsas = {LOWBIT_ISA_SCALAR,   LOWBIT_ISA_NEON,   LOWBIT_ISA_AVX2,
                              LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512, LOWBIT_ISA_AMX};

#if defined(__x86_64__)

bool has(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((word >> bit & 1) == 0) return false;
  }
  return true;
}

#if defined(LOWBIT_AMX) && defined(__linux__)
// Tiles are 8 KB of registers that Linux, since 5.16, saves only for a process that has asked for them, once
// for all of its threads. Whether it can is asked without effect; the codes are those of <asm/prctl.h>.
constexpr int kGetSupported = 0x1021, kRequestPermission = 0x1023;
constexpr int kTileData = 18;

bool knows_tiles() {
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
}

// Afterwards no thread of the process can take an alternate signal stack too small for tiles, and as long as
// one has such a stack they are refused.
const char* tiles_refused() {
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return nullptr;
  return errno == ENOSPC ? "a thread's alternate signal stack is too small to save tile registers"
                         : "the operating system refuses this process tile registers";
}
#else
bool knows_tiles() {
  return false;
}
const char* tiles_refused() {
  return nullptr;
}
#endif

struct X86 {
  bool avx2 = false, avx_vnni = false, avx512 = false, amx = false;

  X86() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return;
    // FMA, OSXSAVE, AVX, F16C. Without OSXSAVE xgetbv does not exist.
    if (!has(c, {12, 27, 28, 29})) return;
    // The operating system must save the wide registers: xmm and ymm (bits 1, 2), masks and zmm (5, 6, 7).
    uint32_t state, high;
    asm volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if (!has(state, {1, 2})) return;

    uint32_t subleaves, b7, c7, d7;
    if (!__get_cpuid_count(7, 0, &subleaves, &b7, &c7, &d7)) return;
    avx2 = has(b7, {5});
    // AVX512 F, DQ, BW, VL (ebx), VBMI, VNNI (ecx).
    avx512 = avx2 && has(state, {5, 6, 7}) && has(b7, {16, 17, 30, 31}) && has(c7, {1, 11});
    if (subleaves < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return;
    avx_vnni = avx2 && has(a, {4});
    // AMX-BF16, AMX-TILE, AMX-INT8 (edx), GFNI (ecx) and AVX512-BF16 (subleaf 1); the operating system saves
    // tiles and their configuration.
    amx = avx512 && has(state, {17, 18}) && has(d7, {22, 24, 25}) && has(c7, {8}) && has(a, {5}) &&
          knows_tiles();
  }
};

bool detect(Isa isa) {
  static const X86 cpu;
  switch (isa) {
    case LOWBIT_ISA_SCALAR:
      return true;
    case LOWBIT_ISA_AVX2:
      return cpu.avx2;
    case LOWBIT_ISA_AVX_VNNI:
      return cpu.avx_vnni;
    case LOWBIT_ISA_AVX512:
      return cpu.avx512;
    case LOWBIT_ISA_AMX:
      return cpu.amx;
    default:
      return false;
  }
}

const char* refused(Isa isa) {
  return isa == LOWBIT_ISA_AMX ? tiles_refused() : nullptr;
}

#elif defined(__aarch64__)

bool detect(Isa isa) {
  if (isa == LOWBIT_ISA_SCALAR) return true;
  if (isa != LOWBIT_ISA_NEON) return false;
#if defined(__linux__)
  // The NEON kernels need the dot product and half precision arithmetic of ARMv8.2.
  constexpr unsigned long kNeeded = HWCAP_ASIMD | HWCAP_ASIMDDP | HWCAP_ASIMDHP;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
#else
  return true;  // every 64-bit Apple core has both
#endif
}

#else

bool detect(Isa isa) {
  return isa == LOWBIT_ISA_SCALAR;
}

#endif

#if !defined(__x86_64__)
const char* refused(Isa) {
  return nullptr;
}
#endif

Isa best() {
  Isa found = LOWBIT_ISA_SCALAR;
  for (Isa isa : kIsas) {
    if (detect(isa)) found = isa;
  }
  return found;
}

// Isa in force, or kUnset before the first question.
constexpr int kUnset = -1;
std::atomic<int> active{kUnset};

// Why the best level of this machine is not in force although nothing else was asked for.
std::atomic<const char*> refusal{nullptr};

}  // namespace

bool isa_available(Isa isa) noexcept {
  return detect(isa);
}

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case LOWBIT_ISA_SCALAR:
      return "scalar";
    case LOWBIT_ISA_AVX2:
      return "avx2";
    case LOWBIT_ISA_AVX_VNNI:
      return "avxvnni";
    case LOWBIT_ISA_AVX512:
      return "avx512";
    case LOWBIT_ISA_AMX:
      return "amx";
    case LOWBIT_ISA_NEON:
      return "neon";
  }
  return nullptr;
}

lowbit_status active_isa(Isa* isa) noexcept {
  int chosen = active.load(std::memory_order_relaxed);
  if (chosen == kUnset) {
    const char* why_not_best = nullptr;
    const char* const forced = std::getenv("LOWBIT_CPU_ISA");
    if (forced == nullptr || *forced == '\0') {
      chosen = best();
      why_not_best = refused(static_cast<Isa>(chosen));
      if (why_not_best != nullptr) chosen = vectors_of(static_cast<Isa>(chosen));
    } else {
      for (Isa candidate : kIsas) {
        if (std::strcmp(forced, isa_name(candidate)) == 0) chosen = candidate;
      }
      if (chosen == kUnset) {
        return fail(LOWBIT_INVALID_ARGUMENT,
                    "LOWBIT_CPU_ISA is '%.64s'; allowed: scalar, avx2, avxvnni, avx512, amx, neon", forced);
      }
      if (!detect(static_cast<Isa>(chosen))) {
        return fail(LOWBIT_UNSUPPORTED, "LOWBIT_CPU_ISA forces %s, which this machine lacks; its best is %s",
                    forced, isa_name(best()));
      }
      if (const char* const reason = refused(static_cast<Isa>(chosen))) {
        return fail(LOWBIT_UNSUPPORTED, "LOWBIT_CPU_ISA forces %s, but %s", forced, reason);
      }
    }
    int unset = kUnset;
    // Another thread may have called set_active_isa() meanwhile: its choice stands.
    if (active.compare_exchange_strong(unset, chosen)) {
      refusal.store(why_not_best, std::memory_order_relaxed);
    } else {
      chosen = unset;
    }
  }
  *isa = static_cast<Isa>(chosen);
  return LOWBIT_OK;
}

lowbit_status set_active_isa(Isa isa) noexcept {
  if (isa_name(isa) == nullptr) {
    return fail(LOWBIT_INVALID_ARGUMENT, "isa is %d; allowed: 0 to %d", static_cast<int>(isa),
                static_cast<int>(LOWBIT_ISA_AMX));
  }
  if (!detect(isa)) {
    return fail(LOWBIT_UNSUPPORTED, "this machine lacks %s; its best is %s", isa_name(isa), isa_name(best()));
  }
  if (const char* const reason = refused(isa)) {
    return fail(LOWBIT_UNSUPPORTED, "%s cannot be used: %s", isa_name(isa), reason);
  }
  active.store(isa, std::memory_order_relaxed);
  refusal.store(nullptr, std::memory_order_relaxed);
  return LOWBIT_OK;
}

const char* isa_refusal() noexcept {
  Isa isa;
  if (active_isa(&isa) != LOWBIT_OK) return nullptr;  // its own error says why
  return refusal.load(std::memory_order_relaxed);
}

}  // namespace lowbit
