#include "emulated/fibre.h"

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace lowbit::emulated {
namespace {

#if defined(__x86_64__)

// Saves what a callee must preserve on the old stack, its pointer in *from, and takes the same from the new
// one. Floating-point control words stay as they are: no kernel changes them.
extern "C" void lowbit_switch_stack(void** from, void* to);
asm(R"(
.text
.p2align 4
.hidden lowbit_switch_stack
.globl lowbit_switch_stack
.type lowbit_switch_stack, @function
lowbit_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lowbit_switch_stack, . - lowbit_switch_stack
)");

#endif

#if defined(__SANITIZE_ADDRESS__)
Fibre* came_from = nullptr;
#endif

}  // namespace

void prepare_fibre(Fibre& fibre, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  // Frames that return clean up after themselves, and for a whole stack it takes as long as a small kernel.
  if (fibre.has_frames) __asan_unpoison_memory_region(fibre.stack, fibre.stack_bytes);
  fibre.has_frames = true;
  fibre.sanitizer_stack = nullptr;
#endif
#if defined(__x86_64__)
  // What lowbit_switch_stack pops, the address it returns to, and a return address that is never used: at a
  // function's first instruction the stack pointer is 8 below a multiple of 16.
  //
  //   top - 64 .. -17: six registers    - 16: entry    - 8: 0
  auto* top = static_cast<char*>(fibre.stack) + fibre.stack_bytes;
  std::memset(top - 64, 0, 64);
  std::memcpy(top - 16, &entry, sizeof(entry));
  fibre.stack_pointer = top - 64;
#else
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = fibre.stack_bytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, entry, 0);
#endif
}

void switch_fibre(Fibre& from, Fibre& to, [[maybe_unused]] bool final) {
#if defined(__SANITIZE_ADDRESS__)
  came_from = &from;
  __sanitizer_start_switch_fiber(final ? nullptr : &from.sanitizer_stack, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__)
  lowbit_switch_stack(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer_stack, nullptr, nullptr);
#endif
}

void fibre_entered() {
#if defined(__SANITIZE_ADDRESS__)
  // The first to leave is the host's own thread, whose stack only the sanitizer knows.
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (came_from->stack == nullptr || came_from->stack_bytes == 0) {
    came_from->stack = const_cast<void*>(bottom);
    came_from->stack_bytes = bytes;
  }
#endif
}

void fibre_returned(Fibre& fibre) {
  fibre.has_frames = false;
}

}  // namespace lowbit::emulated
